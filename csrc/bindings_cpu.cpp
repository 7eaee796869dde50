// kernomics._cpu: the CPU kernels on addresses and sizes. Shapes, dtypes and strides are checked
// in python/kernomics/ops; nothing here knows of torch. Every call releases the GIL.
#include <pybind11/pybind11.h>

#include "common/math.h"
#include "common/philox.h"
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

template <typename T>
LinearArgs<T> linear_args(Address values, Address indptr, Address columns, bool wide_columns,
                          int64_t row_stride, int64_t column_stride, int64_t rows, int64_t genes,
                          Address mask, Address chosen, int64_t k, Address reached, int64_t reach,
                          Address weight, int64_t weight_stride, int64_t outputs, int64_t stored,
                          int threads) {
  return {{at<const T>(values), at<const int64_t>(indptr), at<const void>(columns), wide_columns,
           stored, row_stride, column_stride, rows, genes},
          at<const T>(mask),
          at<const int64_t>(chosen),
          k,
          at<const int64_t>(reached),
          reach,
          at<const T>(weight),
          weight_stride,
          outputs,
          threads};
}

template <typename T>
py::tuple masked_linear_forward_py(Address values, Address indptr, Address columns,
                                   bool wide_columns, int64_t row_stride, int64_t column_stride,
                                   int64_t rows, int64_t genes, Address mask, Address chosen,
                                   int64_t k, Address reached, int64_t reach, Address weight,
                                   int64_t weight_stride, int64_t outputs, int64_t stored,
                                   int threads, Address bias, Address y) {
  LinearReport report;
  {
    py::gil_scoped_release release;
    report = masked_linear_forward<T>(
        linear_args<T>(values, indptr, columns, wide_columns, row_stride, column_stride, rows,
                       genes, mask, chosen, k, reached, reach, weight, weight_stride, outputs,
                       stored, threads),
        at<const T>(bias), at<T>(y));
  }
  return py::make_tuple(report.fault, report.row, report.position, report.value, report.count);
}

template <typename T>
void masked_linear_backward_py(Address values, Address indptr, Address columns, bool wide_columns,
                               int64_t row_stride, int64_t column_stride, int64_t rows,
                               int64_t genes, Address mask, Address chosen, int64_t k,
                               Address reached, int64_t reach, Address weight,
                               int64_t weight_stride, int64_t outputs, int64_t stored, int threads,
                               Address delta, int64_t delta_stride, Address grad_mask,
                               Address grad_weight, Address grad_bias) {
  py::gil_scoped_release release;
  masked_linear_backward<T>(
      linear_args<T>(values, indptr, columns, wide_columns, row_stride, column_stride, rows, genes,
                     mask, chosen, k, reached, reach, weight, weight_stride, outputs, stored,
                     threads),
      {at<const T>(delta), delta_stride, at<T>(grad_mask), at<T>(grad_weight), at<T>(grad_bias)});
}

// For the tests: one counter's words, and the noise of given words, compiled without clones.
py::tuple philox4x32_10_py(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0,
                           uint32_t k1) {
  const PhiloxCounter out = philox4x32_10({c0, c1, c2, c3}, {k0, k1});
  return py::make_tuple(out.c0, out.c1, out.c2, out.c3);
}

void gumbel_py(Address words, int64_t count, Address noise) {
  for (int64_t i = 0; i < count; ++i) at<float>(noise)[i] = gumbel(at<const uint32_t>(words)[i]);
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
  m.def("masked_linear_forward_f32", &masked_linear_forward_py<float>);
  m.def("masked_linear_forward_f64", &masked_linear_forward_py<double>);
  m.def("masked_linear_backward_f32", &masked_linear_backward_py<float>);
  m.def("masked_linear_backward_f64", &masked_linear_backward_py<double>);
  m.def("philox4x32_10", &philox4x32_10_py);
  m.def("gumbel", &gumbel_py);
  m.attr("__version__") = KERNOMICS_VERSION;
  m.attr("compiler") = KERNOMICS_COMPILER;
}
