// kernomics._cpu: the CPU kernels on addresses and sizes. Shapes, dtypes and strides are checked
// in python/kernomics/ops; nothing here knows of torch. Every call releases the GIL.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings.h"
#include "common/math.h"
#include "common/philox.h"
#include "cpu/gene_sums.h"
#include "cpu/half.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/read_rows.h"
#include "cpu/scratch.h"
#include "cpu/shared_sum.h"

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

double weighted_sum_py(Address values, Address weights, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i)
    sum += at<const double>(values)[i] * at<const double>(weights)[i];
  return sum;
}

py::tuple read_ranges_py(int file, int64_t n, Address offsets, Address lengths, Address out) {
  ReadFault fault;
  {
    py::gil_scoped_release release;
    fault =
        read_ranges(file, n, at<const int64_t>(offsets), at<const int64_t>(lengths), at<char>(out));
  }
  return py::make_tuple(fault.range, fault.error);
}

int take_rows_py(Address indices, int index_kind, Address values, int value_kind, int64_t rows,
                 int64_t genes, Address starts, Address indptr, Address out_indices,
                 Address out_values, Address totals) {
  py::gil_scoped_release release;
  return take_rows({at<const void>(indices), index_kind, at<const void>(values), value_kind, rows,
                    genes, at<const int64_t>(starts), at<const int64_t>(indptr),
                    at<int32_t>(out_indices), at<float>(out_values), at<float>(totals)});
}

void row_words_py(int64_t rows, Address indptr, Address indices, Address values, Address genes,
                  Address out) {
  py::gil_scoped_release release;
  row_words(rows, at<const int64_t>(indptr), at<const int32_t>(indices), at<const float>(values),
            at<const uint64_t>(genes), at<uint64_t>(out));
}

void gene_sums_py(int64_t rows, int64_t genes, Address indptr, Address indices, Address values,
                  Address classes, Address weights, bool log, Address sums) {
  py::gil_scoped_release release;
  gene_sums({rows, genes, at<const int64_t>(indptr), at<const int32_t>(indices),
             at<const float>(values), at<const int64_t>(classes), at<const double>(weights), log,
             at<double>(sums)});
}

SharedSum shared_sum_of(Address room, int64_t world, int64_t rank, int64_t slot, uint64_t turn,
                        int kind, int64_t count, Address values) {
  return {at<void>(room), world, rank, slot, turn, kind, count, at<void>(values)};
}

void shared_put_py(Address room, int64_t world, int64_t rank, int64_t slot, uint64_t turn, int kind,
                   int64_t count, Address values) {
  py::gil_scoped_release release;
  shared_put(shared_sum_of(room, world, rank, slot, turn, kind, count, values));
}

py::tuple shared_add_py(Address room, int64_t world, int64_t rank, int64_t slot, uint64_t turn,
                        int kind, int64_t count, Address values, double seconds) {
  SumReport found;
  {
    py::gil_scoped_release release;
    found = shared_add(shared_sum_of(room, world, rank, slot, turn, kind, count, values), seconds);
  }
  return py::make_tuple(static_cast<int>(found.state), found.rank);
}

constexpr const char* kIsaNames[] = {"portable", "avx2", "avx512"};

// The instruction sets that this processor has, the best one first.
py::list isas_py() {
  py::list names;
  for (int level = static_cast<int>(best_isa()); level >= 0; --level)
    names.append(kIsaNames[level]);
  return names;
}

const char* isa_py() { return kIsaNames[static_cast<int>(isa())]; }

void use_isa_py(const std::string& name) {
  for (int level = 0; level <= static_cast<int>(best_isa()); ++level)
    if (name == kIsaNames[level]) return isa_in_use.store(static_cast<Isa>(level));
  throw py::value_error("use_isa: this processor has no '" + name + "'");
}

// For the tests: one counter's words, and functions of given numbers, compiled once.
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
  define_kernel<GumbelTopk, float, double>(
      m, "gumbel_topk_forward", "gumbel_topk", "kind",
      [](const auto& params, int threads) { return gumbel_topk_forward(params, threads); });
  define_kernel<RelaxedTopk, float, double>(
      m, "gumbel_topk_backward", "gumbel_topk, backward", "kind",
      [](const auto& params, int threads) { gumbel_topk_backward(params, threads); });
  define_kernel<RelaxedTopk, float, double>(
      m, "gumbel_topk_relaxed", "relaxed_mask", "kind",
      [](const auto& params, int threads) { gumbel_topk_relaxed(params, threads); });
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
  define_kernel<PoissonPrepare, float, double>(
      m, "poisson_prepare", "poisson_nll", "values_kind",
      [](const auto& params, int threads) { return poisson_prepare(params, threads); });
  define_kernel<PoissonSweep, float, double>(
      m, "poisson_sweep", "poisson_nll", "values_kind",
      [](const auto& params, int threads) { return poisson_sweep(params, threads); });
  define_kernel<AdamWStep, float, double>(
      m, "adamw_step", "AdamW", "kind",
      [](const auto& params, int threads) { return adamw_step(params, threads); });
  define_kernel<SquareSum, float, double>(
      m, "square_sum", "the gradient's norm", "kind",
      [](const auto& params, int threads) { square_sum(params, threads); });
  define_kernel<GeneMeansForward, float, double>(
      m, "gene_means_forward", "attention to genes", "kind",
      [](const auto& params, int threads) { return gene_means_forward(params, threads); });
  define_kernel<GeneMeansBackward, float, double>(
      m, "gene_means_backward", "attention to genes, backward", "kind",
      [](const auto& params, int threads) { gene_means_backward(params, threads); });
  define_kernel<Dropout, float, double>(
      m, "dropout", "dropout", "kind",
      [](const auto& params, int threads) { return dropout(params, threads); });
  define_kernel<DropoutBackward, float, double>(
      m, "dropout_backward", "dropout, backward", "kind",
      [](const auto& params, int threads) { dropout_backward(params, threads); });
  m.def("read_ranges", &read_ranges_py);
  m.def("take_rows", &take_rows_py);
  m.def("row_words", &row_words_py);
  m.def("gene_sums", &gene_sums_py);
  m.def("shared_put", &shared_put_py);
  m.def("shared_add", &shared_add_py);
  m.def("isas", &isas_py);
  m.def("isa", &isa_py);
  m.def("use_isa", &use_isa_py);
  m.def("weighted_sum", &weighted_sum_py);
  m.def("philox4x32_10", &philox4x32_10_py);
  m.def("gumbel", &gumbel_py);
  m.def("exponential", &exponential_py);
  m.def("log1p", &log1p_py);
  m.attr("__version__") = KERNOMICS_VERSION;
  m.attr("compiler") = KERNOMICS_COMPILER;
}
