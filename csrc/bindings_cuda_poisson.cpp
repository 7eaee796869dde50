// The Poisson losses' part of kernomics._cuda; see bindings_cuda.cpp.
#include "bindings_cuda_poisson.h"

#include "cuda/poisson.h"

namespace py = pybind11;

namespace kernomics {
namespace {

using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

CudaPoissonArgs poisson_args(int64_t rows, int64_t genes, int kind, Address values, Address indptr,
                             Address columns, bool wide_columns, int64_t stored, int64_t row_stride,
                             Address library, Address panel, Address mask, Address counts,
                             int64_t panels, int activation, double target_sum, double eps,
                             bool full, int values_kind) {
  return {rows,
          genes,
          kind,
          at<const void>(values),
          values_kind,
          at<const int64_t>(indptr),
          at<const void>(columns),
          wide_columns,
          stored,
          row_stride,
          at<const double>(library),
          at<const int32_t>(panel),
          at<const uint8_t>(mask),
          at<const int64_t>(counts),
          panels,
          activation,
          target_sum,
          eps,
          full};
}

void poisson_prepare_py(int64_t rows, int64_t genes, int kind, Address values, Address indptr,
                        Address columns, bool wide_columns, int64_t stored, int64_t row_stride,
                        Address library, Address panel, Address mask, Address counts,
                        int64_t panels, int activation, double target_sum, double eps, bool full,
                        int values_kind, int reduction, int64_t segments, Address units,
                        Address weights, Address sums, Address cuda_stream) {
  py::gil_scoped_release release;
  poisson_prepare(poisson_args(rows, genes, kind, values, indptr, columns, wide_columns, stored,
                               row_stride, library, panel, mask, counts, panels, activation,
                               target_sum, eps, full, values_kind),
                  reduction, segments, at<double>(units), at<double>(weights), at<double>(sums),
                  reinterpret_cast<CudaStream>(cuda_stream));
}

void poisson_sweep_py(int64_t rows, int64_t genes, int kind, Address values, Address indptr,
                      Address columns, bool wide_columns, int64_t stored, int64_t row_stride,
                      Address library, Address panel, Address mask, Address counts, int64_t panels,
                      int activation, double target_sum, double eps, bool full, int values_kind,
                      int64_t first, int64_t count, Address logits, int logits_kind,
                      int64_t logits_stride, int64_t segments, Address sums, Address loss,
                      Address gradient, int64_t gradient_stride, Address upstream,
                      int64_t upstream_stride, Address units, Address weights,
                      Address cuda_stream) {
  py::gil_scoped_release release;
  poisson_sweep(poisson_args(rows, genes, kind, values, indptr, columns, wide_columns, stored,
                             row_stride, library, panel, mask, counts, panels, activation,
                             target_sum, eps, full, values_kind),
                {first, count, at<const void>(logits), logits_kind, logits_stride, segments,
                 at<double>(sums), at<void>(loss), at<void>(gradient), gradient_stride,
                 at<const void>(upstream), upstream_stride},
                at<const double>(units), at<const double>(weights),
                reinterpret_cast<CudaStream>(cuda_stream));
}

void poisson_finish_py(int64_t rows, int64_t segments, Address sums, Address weights, bool by_cell,
                       int out_kind, Address out, Address cuda_stream) {
  py::gil_scoped_release release;
  poisson_finish(rows, segments, at<const double>(sums), at<const double>(weights), by_cell,
                 out_kind, at<void>(out), reinterpret_cast<CudaStream>(cuda_stream));
}

void poisson_scale_py(Address from, Address to, int64_t count, int kind, Address factor,
                      Address cuda_stream) {
  py::gil_scoped_release release;
  poisson_scale(at<const void>(from), at<void>(to), count, kind, at<const void>(factor),
                reinterpret_cast<CudaStream>(cuda_stream));
}

}  // namespace

void define_poisson(py::module_& m) {
  m.def("poisson_prepare", &poisson_prepare_py);
  m.def("poisson_sweep", &poisson_sweep_py);
  m.def("poisson_finish", &poisson_finish_py);
  m.def("poisson_scale", &poisson_scale_py);
}

}  // namespace kernomics
