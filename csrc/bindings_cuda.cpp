// kernomics._cuda: the CUDA kernels on device addresses, sizes and a stream. Shapes, dtypes and
// strides are checked in python/kernomics/ops; nothing here knows of torch. Every call releases
// the GIL. The module links the CUDA runtime statically and can be imported without a driver.
#include "bindings_cuda.h"

#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "bindings_cuda_poisson.h"
#include "cuda/kernels.h"

using namespace kernomics;

namespace {

using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

CudaStream stream_at(Address address) { return reinterpret_cast<CudaStream>(address); }

// ---- gumbel_topk ----------------------------------------------------------------------------

template <typename T>
void gumbel_topk_forward_py(Address scores, int64_t row_stride, int64_t rows, int64_t genes,
                            int64_t k, double noise_scale, Address seed, Address row_ids,
                            uint32_t stream, double tau, int relaxation, int64_t reach, Address y,
                            Address mask, Address indices, Address grad_indices, Address faults,
                            Address scratch, Address cuda_stream) {
  py::gil_scoped_release release;
  gumbel_topk_forward<T>(
      {at<const T>(scores), row_stride, rows, genes, k, noise_scale, at<const int64_t>(seed),
       at<const int64_t>(row_ids), stream, tau, relaxation, reach, at<T>(y), at<T>(mask),
       at<int64_t>(indices), at<int64_t>(grad_indices), at<int32_t>(faults), at<void>(scratch)},
      stream_at(cuda_stream));
}

template <typename T>
void gumbel_topk_backward_py(Address y, Address indices, Address u, int64_t rows, int64_t genes,
                             int64_t k, double tau, int relaxation, Address grad, Address scratch,
                             Address cuda_stream) {
  py::gil_scoped_release release;
  gumbel_topk_backward<T>(at<const T>(y), at<const int64_t>(indices), at<const T>(u), rows, genes,
                          k, tau, relaxation, at<T>(grad), at<void>(scratch),
                          stream_at(cuda_stream));
}

template <typename T>
void gumbel_topk_relaxed_py(Address y, Address indices, int64_t rows, int64_t genes, int64_t k,
                            double tau, int relaxation, Address gamma, Address scratch,
                            Address cuda_stream) {
  py::gil_scoped_release release;
  gumbel_topk_relaxed<T>(at<const T>(y), at<const int64_t>(indices), rows, genes, k, tau,
                         relaxation, at<T>(gamma), at<void>(scratch), stream_at(cuda_stream));
}

void define_gumbel_topk(py::module_& m) {
  m.def("gumbel_topk_forward_scratch_f32", &gumbel_topk_forward_scratch<float>);
  m.def("gumbel_topk_forward_scratch_f64", &gumbel_topk_forward_scratch<double>);
  m.def("gumbel_topk_forward_f32", &gumbel_topk_forward_py<float>);
  m.def("gumbel_topk_forward_f64", &gumbel_topk_forward_py<double>);
  m.def("gumbel_topk_relaxed_scratch_f32", &gumbel_topk_relaxed_scratch<float>);
  m.def("gumbel_topk_relaxed_scratch_f64", &gumbel_topk_relaxed_scratch<double>);
  m.def("gumbel_topk_backward_f32", &gumbel_topk_backward_py<float>);
  m.def("gumbel_topk_backward_f64", &gumbel_topk_backward_py<double>);
  m.def("gumbel_topk_relaxed_f32", &gumbel_topk_relaxed_py<float>);
  m.def("gumbel_topk_relaxed_f64", &gumbel_topk_relaxed_py<double>);
}

py::tuple split_list(const std::string& list) {
  py::list items;
  std::istringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) items.append(item);
  return py::tuple(items);
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of kernomics, called through kernomics.ops";
  define_gumbel_topk(m);
  define_kernel<LinearForward<void>>(m, "masked_linear_forward", masked_linear_forward);
  define_kernel<LinearBackward<void>>(m, "masked_linear_backward", masked_linear_backward);
  define_kernel_of<SampleTokens, float, double>(
      m, "sample_tokens", "kind", [](const auto& params) { return sample_tokens_scratch(params); },
      [](const auto& params, void* scratch, CudaStream stream) {
        sample_tokens(params, scratch, stream);
      });
  define_kernel<EmbedForward<void>>(m, "embed_tokens_forward", embed_tokens_forward);
  define_kernel<EmbedBackward<void>>(m, "embed_tokens_backward", embed_tokens_backward_scratch,
                                     embed_tokens_backward);
  define_poisson(m);
  m.attr("__version__") = KERNOMICS_VERSION;
  m.attr("compiler") = KERNOMICS_CUDA_COMPILER;
  m.attr("architectures") = split_list(KERNOMICS_CUDA_ARCHITECTURES);
}
