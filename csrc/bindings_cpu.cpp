// kernomics._cpu: the CPU kernels on addresses and sizes. Shapes, dtypes and strides are checked
// in python/kernomics/ops; nothing here knows of torch. Every call releases the GIL.
#include <pybind11/pybind11.h>

#include "cpu/kernels.h"

namespace py = pybind11;
using namespace kernomics;

namespace {

using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

template <typename T>
py::tuple gumbel_topk_forward_py(Address scores, int64_t row_stride, int64_t rows, int64_t genes,
                                 int64_t k, double noise_scale, Address seed, Address row_ids,
                                 uint32_t stream, double tau, int relaxation, int64_t reach,
                                 Address y, Address mask, Address indices, Address grad_indices,
                                 int threads) {
  RowReport report;
  {
    py::gil_scoped_release release;
    NoiseAddress noise{0, 0, stream, at<const int64_t>(row_ids)};
    if (noise_scale != 0) {
      noise.seed = at<const int64_t>(seed)[0];
      noise.step = at<const int64_t>(seed)[1];
    }
    report = gumbel_topk_forward<T>({at<const T>(scores), row_stride, rows, genes, k, noise_scale,
                                     noise, tau, relaxation, reach, at<T>(y), at<T>(mask),
                                     at<int64_t>(indices), at<int64_t>(grad_indices), threads});
  }
  return py::make_tuple(report.fault, report.row, report.count, report.first);
}

template <typename T>
void gumbel_topk_backward_py(Address y, Address indices, Address u, int64_t rows, int64_t genes,
                             int64_t k, double tau, int relaxation, Address grad, int threads) {
  py::gil_scoped_release release;
  gumbel_topk_backward<T>(at<const T>(y), at<const int64_t>(indices), at<const T>(u), rows, genes,
                          k, tau, relaxation, at<T>(grad), threads);
}

template <typename T>
void gumbel_topk_relaxed_py(Address y, Address indices, int64_t rows, int64_t genes, int64_t k,
                            double tau, int relaxation, Address gamma, int threads) {
  py::gil_scoped_release release;
  gumbel_topk_relaxed<T>(at<const T>(y), at<const int64_t>(indices), rows, genes, k, tau,
                         relaxation, at<T>(gamma), threads);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "CPU kernels of kernomics, called through kernomics.ops";
  m.def("gumbel_topk_forward_f32", &gumbel_topk_forward_py<float>);
  m.def("gumbel_topk_forward_f64", &gumbel_topk_forward_py<double>);
  m.def("gumbel_topk_backward_f32", &gumbel_topk_backward_py<float>);
  m.def("gumbel_topk_backward_f64", &gumbel_topk_backward_py<double>);
  m.def("gumbel_topk_relaxed_f32", &gumbel_topk_relaxed_py<float>);
  m.def("gumbel_topk_relaxed_f64", &gumbel_topk_relaxed_py<double>);
  m.attr("__version__") = KERNOMICS_VERSION;
  m.attr("compiler") = KERNOMICS_COMPILER;
}
