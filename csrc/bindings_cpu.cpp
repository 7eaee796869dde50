// kernomics._cpu: the CPU kernels on addresses and sizes. Shapes, dtypes and strides are checked
// in python/kernomics/ops; nothing here knows of torch. Every call releases the GIL.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings.h"
#include "common/math.h"
#include "common/philox.h"
#include "cpu/half.h"
#include "cpu/kernels.h"
#include "cpu/scratch.h"

using namespace kernomics;

namespace {

using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

struct CpuCall {
  int threads;
  KN_FIELDS(threads)
};

py::tuple as_tuple(const Report& r) {
  return py::make_tuple(r.fault, r.row, r.position, r.value, r.number, r.count);
}

// Defines a function of a dict of parameters and the number of threads, for each type that the
// parameter `kind` may name. `operation` is its name in an error about memory.
template <template <typename> class Params, typename... Types, typename Kernel>
void define_kernel(py::module_& m, const char* name, const char* operation, const char* kind,
                   Kernel kernel) {
  m.def(name, [=](const py::dict& given) {
    Named named(name, given);
    return with_kind<Types...>(named, kind, named.kind(kind), [&](auto zero) {
      Params<decltype(zero)> params{};
      CpuCall call{};
      named.fill(params, call);
      const auto run = [&] {
        py::gil_scoped_release release;
        return in_operation(operation, [&] { return kernel(params, call.threads); });
      };
      if constexpr (std::is_void_v<decltype(run())>)
        run();
      else
        return as_tuple(run());
    });
  });
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
    report = in_operation("gumbel_topk", [&] {
      return gumbel_topk_forward<T>({at<const T>(scores), row_stride, rows, genes, k, noise_scale,
                                     noise, tau, relaxation, reach, at<T>(y), at<T>(mask),
                                     at<int64_t>(indices), at<int64_t>(grad_indices), threads});
    });
  }
  return py::make_tuple(report.fault, report.row, report.count, report.first);
}

template <typename T>
void gumbel_topk_backward_py(Address y, Address indices, Address u, int64_t rows, int64_t genes,
                             int64_t k, double tau, int relaxation, Address grad, int threads) {
  py::gil_scoped_release release;
  in_operation("gumbel_topk, backward", [&] {
    gumbel_topk_backward<T>(at<const T>(y), at<const int64_t>(indices), at<const T>(u), rows, genes,
                            k, tau, relaxation, at<T>(grad), threads);
  });
}

template <typename T>
void gumbel_topk_relaxed_py(Address y, Address indices, int64_t rows, int64_t genes, int64_t k,
                            double tau, int relaxation, Address gamma, int threads) {
  py::gil_scoped_release release;
  in_operation("relaxed_mask", [&] {
    gumbel_topk_relaxed<T>(at<const T>(y), at<const int64_t>(indices), rows, genes, k, tau,
                           relaxation, at<T>(gamma), threads);
  });
}

template <typename T>
PoissonArgs<T> poisson_args(int64_t rows, int64_t genes, int kind, Address values, Address indptr,
                            Address columns, bool wide_columns, int64_t stored, int64_t row_stride,
                            Address library, Address panel, Address mask, Address counts,
                            int64_t panels, int activation, double target_sum, double eps,
                            bool full, int threads) {
  return {rows,
          genes,
          {kind, at<const T>(values), at<const int64_t>(indptr), at<const void>(columns),
           wide_columns, stored, row_stride, at<const double>(library)},
          {at<const int32_t>(panel), at<const uint8_t>(mask), at<const int64_t>(counts), panels},
          activation,
          target_sum,
          eps,
          full,
          threads};
}

template <typename T>
py::tuple poisson_prepare_py(int64_t rows, int64_t genes, int kind, Address values, Address indptr,
                             Address columns, bool wide_columns, int64_t stored, int64_t row_stride,
                             Address library, Address panel, Address mask, Address counts,
                             int64_t panels, int activation, double target_sum, double eps,
                             bool full, int threads, int reduction, Address units,
                             Address weights) {
  PoissonReport r;
  {
    py::gil_scoped_release release;
    r = poisson_prepare<T>(poisson_args<T>(rows, genes, kind, values, indptr, columns, wide_columns,
                                           stored, row_stride, library, panel, mask, counts, panels,
                                           activation, target_sum, eps, full, threads),
                           reduction, at<double>(units), at<double>(weights));
  }
  return py::make_tuple(r.fault, r.row, r.position, r.value, r.library, r.count);
}

template <typename T>
py::tuple poisson_sweep_py(int64_t rows, int64_t genes, int kind, Address values, Address indptr,
                           Address columns, bool wide_columns, int64_t stored, int64_t row_stride,
                           Address library, Address panel, Address mask, Address counts,
                           int64_t panels, int activation, double target_sum, double eps, bool full,
                           int threads, Address units, Address weights, int64_t first,
                           int64_t count, Address logits, int64_t logits_stride, Address sums,
                           Address loss, Address gradient, int64_t gradient_stride,
                           Address upstream, int64_t upstream_stride) {
  PoissonReport r;
  {
    py::gil_scoped_release release;
    r = poisson_sweep<T>(
        poisson_args<T>(rows, genes, kind, values, indptr, columns, wide_columns, stored,
                        row_stride, library, panel, mask, counts, panels, activation, target_sum,
                        eps, full, threads),
        {first, count, at<const T>(logits), logits_stride, at<double>(sums), at<T>(loss),
         at<T>(gradient), gradient_stride, at<const T>(upstream), upstream_stride},
        at<const double>(units), at<const double>(weights));
  }
  return py::make_tuple(r.fault, r.row, r.position, r.value, r.library, r.count);
}

double weighted_sum_py(Address values, Address weights, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i)
    sum += at<const double>(values)[i] * at<const double>(weights)[i];
  return sum;
}

// For the tests: one counter's words, and functions of given numbers, compiled without clones.
py::tuple philox4x32_10_py(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0,
                           uint32_t k1) {
  const PhiloxCounter out = philox4x32_10({c0, c1, c2, c3}, {k0, k1});
  return py::make_tuple(out.c0, out.c1, out.c2, out.c3);
}

void gumbel_py(Address words, int64_t count, Address noise) {
  for (int64_t i = 0; i < count; ++i) at<float>(noise)[i] = gumbel(at<const uint32_t>(words)[i]);
}

void exponential_py(Address words, int64_t count, Address out) {
  for (int64_t i = 0; i < count; ++i) at<float>(out)[i] = exponential(at<const uint32_t>(words)[i]);
}

void log1p_py(Address x, int64_t count, Address out) {
  for (int64_t i = 0; i < count; ++i) at<float>(out)[i] = log1p_nonnegative(at<const float>(x)[i]);
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
  define_kernel<LinearForward, float, double>(
      m, "masked_linear_forward", "masked_linear", "weight_kind",
      [](const auto& params, int threads) { return masked_linear_forward(params, threads); });
  define_kernel<LinearBackward, float, double>(
      m, "masked_linear_backward", "masked_linear, backward", "weight_kind",
      [](const auto& params, int threads) { masked_linear_backward(params, threads); });
  define_kernel<SampleTokens, float, double>(
      m, "sample_tokens", "sample_tokens", "kind",
      [](const auto& params, int threads) { return sample_tokens(params, threads); });
  define_kernel<EmbedForward, float, double, BFloat16, Half>(
      m, "embed_tokens_forward", "embed_tokens", "kind",
      [](const auto& params, int threads) { return embed_tokens_forward(params, threads); });
  define_kernel<EmbedBackward, float, double, BFloat16, Half>(
      m, "embed_tokens_backward", "embed_tokens, backward", "kind",
      [](const auto& params, int threads) { embed_tokens_backward(params, threads); });
  m.def("poisson_prepare_f32", &poisson_prepare_py<float>);
  m.def("poisson_prepare_f64", &poisson_prepare_py<double>);
  m.def("poisson_sweep_f32", &poisson_sweep_py<float>);
  m.def("poisson_sweep_f64", &poisson_sweep_py<double>);
  m.def("weighted_sum", &weighted_sum_py);
  m.def("philox4x32_10", &philox4x32_10_py);
  m.def("gumbel", &gumbel_py);
  m.def("exponential", &exponential_py);
  m.def("log1p", &log1p_py);
  m.attr("__version__") = KERNOMICS_VERSION;
  m.attr("compiler") = KERNOMICS_COMPILER;
}
