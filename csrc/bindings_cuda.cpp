// kernomics._cuda: the CUDA kernels on device addresses, sizes and a stream. Shapes, dtypes and
// strides are checked in python/kernomics/ops; nothing here knows of torch. Every call releases
// the GIL. The module links the CUDA runtime statically and can be imported without a driver.
#include "bindings_cuda.h"

#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "cuda/kernels.h"

using namespace kernomics;

namespace {

py::tuple split_list(const std::string& list) {
  py::list items;
  std::istringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) items.append(item);
  return py::tuple(items);
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of kernomics, called through kernomics.ops";
  define_kernel_of<GumbelTopk, float, double>(
      m, "gumbel_topk_forward", "kind",
      [](const auto& params, void* scratch, CudaStream stream) {
        gumbel_topk_forward(params, scratch, stream);
      },
      [](const auto& params) { return gumbel_topk_forward_scratch(params); });
  for (const char* name : {"gumbel_topk_backward", "gumbel_topk_relaxed"})
    define_kernel_of<RelaxedTopk, float, double>(
        m, name, "kind",
        [](const auto& params, void* scratch, CudaStream stream) {
          gumbel_topk_relaxed(params, scratch, stream);
        },
        [](const auto& params) { return gumbel_topk_relaxed_scratch(params); });
  define_kernel<LinearForward<void>>(m, "masked_linear_forward", masked_linear_forward);
  define_kernel<LinearBackward<void>>(m, "masked_linear_backward", masked_linear_backward);
  define_kernel_of<SampleTokens, float, double>(
      m, "sample_tokens", "kind",
      [](const auto& params, void* scratch, CudaStream stream) {
        sample_tokens(params, scratch, stream);
      },
      [](const auto& params) { return sample_tokens_scratch(params); });
  define_kernel<EmbedForward<void>>(m, "embed_tokens_forward", embed_tokens_forward);
  define_kernel<EmbedBackward<void>>(m, "embed_tokens_backward", embed_tokens_backward,
                                     embed_tokens_backward_scratch);
  define_kernel<PoissonPrepare<void>>(m, "poisson_prepare", poisson_prepare);
  define_kernel<PoissonSweep<void>>(m, "poisson_sweep", poisson_sweep);
  define_kernel<PoissonFinish>(m, "poisson_finish", poisson_finish);
  define_kernel<PoissonScale>(m, "poisson_scale", poisson_scale);
  define_kernel_of<Dropout, float, double>(
      m, "dropout", "kind", [](const auto& params, CudaStream stream) { dropout(params, stream); });
  define_kernel_of<DropoutBackward, float, double>(
      m, "dropout_backward", "kind",
      [](const auto& params, CudaStream stream) { dropout_backward(params, stream); });
  m.attr("__version__") = KERNOMICS_VERSION;
  m.attr("compiler") = KERNOMICS_CUDA_COMPILER;
  m.attr("architectures") = split_list(KERNOMICS_CUDA_ARCHITECTURES);
}
