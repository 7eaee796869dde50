// The part of kernomics._cuda that makes tokens; see bindings_cuda.cpp for what holds for all.
#include <pybind11/pybind11.h>

#include "bindings_cuda.h"
#include "cuda/tokens.h"

using namespace kernomics;

namespace {

using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

CudaStream stream_at(Address address) { return reinterpret_cast<CudaStream>(address); }

template <typename T>
void sample_tokens_py(Address values, Address indptr, Address columns, bool wide_columns,
                      int64_t stored, int64_t rows, int64_t genes, Address seed, Address cell_ids,
                      uint32_t stream, int64_t n_tokens, Address library, Address panel_id,
                      Address panel_mask, Address panel_counts, int64_t panels, Address weights,
                      bool expressed, bool log1p, double target_sum, Address gene_ids,
                      Address tokens, Address offsets, Address scratch, Address cuda_stream) {
  py::gil_scoped_release release;
  sample_tokens<T>({at<const T>(values),
                    at<const int64_t>(indptr),
                    at<const void>(columns),
                    wide_columns,
                    stored,
                    rows,
                    genes,
                    at<const int64_t>(seed),
                    at<const int64_t>(cell_ids),
                    stream,
                    n_tokens,
                    at<const double>(library),
                    at<const int32_t>(panel_id),
                    at<const uint8_t>(panel_mask),
                    at<const int64_t>(panel_counts),
                    panels,
                    at<const float>(weights),
                    expressed,
                    log1p,
                    target_sum,
                    at<int32_t>(gene_ids),
                    at<T>(tokens),
                    at<int64_t>(offsets),
                    at<void>(scratch)},
                   stream_at(cuda_stream));
}

}  // namespace

void define_tokens(py::module_& m) {
  m.def("sample_tokens_scratch_f32", &sample_tokens_scratch<float>);
  m.def("sample_tokens_scratch_f64", &sample_tokens_scratch<double>);
  m.def("sample_tokens_f32", &sample_tokens_py<float>);
  m.def("sample_tokens_f64", &sample_tokens_py<double>);
  define_kernel<EmbedForward<void>>(m, "embed_tokens_forward", embed_tokens_forward);
  define_kernel<EmbedBackward<void>>(m, "embed_tokens_backward", embed_tokens_backward_scratch,
                                     embed_tokens_backward);
}
