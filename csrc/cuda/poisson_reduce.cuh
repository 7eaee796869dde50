// What goes before and after the sweeps of poisson_nll on CUDA: each row's unit and weight, the
// reduction of the sums, and the gradient times what comes from above.
//
// Library sums: a block per row. Units and weights: a thread per row; Σ observed genes, needed by
// one reduction, by one block alone, exact in integers. The reduction: one block, or a thread per
// row. Every sum runs in float64 in a fixed order.
// Bytes: some tens a row, next to nothing; counts without library sizes are read once more. The
// scaling reads and writes the gradient.
// Launches: 128 or 512 threads. Nothing is allocated.
#pragma once

#include "launch.h"
#include "poisson_row.cuh"

namespace kernomics {
namespace poisson {
namespace {

constexpr int kWide = 512;  // threads of a block that works alone

// sums[b] = Σ values of row b, 0 for a row whose pointers are at fault.
template <typename Y>
__global__ void __launch_bounds__(kThreads) library_kernel(PoissonProblem<void> a, double* sums) {
  __shared__ BlockSlots slots;
  Block block(slots);
  const int64_t b = blockIdx.x;
  const Y* values = static_cast<const Y*>(a.values);
  Range range{b * a.row_stride, b * a.row_stride + a.genes};
  if (a.indptr != nullptr) range = row_entries(a.indptr, a.stored, b);
  double sum = 0;
  for (int64_t i = range.begin + block.thread; i < range.end; i += kThreads)
    sum += static_cast<double>(widen(values[i]));
  sum = block.sum(sum);
  if (block.thread == 0) sums[b] = sum;
}

// Units hold the library sums where none are given.
__global__ void __launch_bounds__(kWide)
    prepare_kernel(PoissonProblem<void> a, int reduction, int64_t segments, double* units,
                   double* weights, double* sums) {
  __shared__ BlockSlots slots;
  Block block(slots);
  const auto genes_of = [&](int64_t b) -> int64_t {  // −1 for a panel that does not exist
    if (a.panel == nullptr) return a.genes;
    const int64_t panel = a.panel[b];
    return panel >= 0 && panel < a.panels ? a.counts[panel] : -1;
  };
  int64_t total = a.rows * a.genes;
  if (reduction == kReduceGenes && a.panel != nullptr) {  // then this is the only block
    total = 0;
    for (int64_t b = block.thread; b < a.rows; b += block.threads)
      total += max(genes_of(b), int64_t(0));
    total = block.reduce(total, int64_t(0), [](int64_t x, int64_t y) { return x + y; });
  }
  for (int64_t b = blockIdx.x * static_cast<int64_t>(block.threads) + block.thread; b < a.rows;
       b += static_cast<int64_t>(gridDim.x) * block.threads) {
    const int64_t genes = genes_of(b);
    bool fine = genes >= 0;
    if (a.indptr != nullptr) fine = row_fits(a.indptr, a.stored, b) && fine;
    double unit = 0;
    if (a.target_kind == kTargetCounts) {
      const double library = a.library != nullptr ? a.library[b] : units[b];
      fine = fine && library >= 0 && library < HUGE_VAL;  // neither for NaN
      if (library > 0) unit = a.target_sum / library;
    }
    double weight = genes > 0 ? 1.0 / static_cast<double>(genes) : 0.0;  // a mean of nothing is 0
    if (reduction == kReduceMean) weight /= static_cast<double>(a.rows);
    if (reduction == kReduceGenes) weight = total > 0 ? 1.0 / static_cast<double>(total) : 0.0;
    if (reduction == kReduceSum) weight = 1.0;
    units[b] = unit;
    weights[b] = fine ? weight : nan("");
    for (int64_t s = 0; s < segments; ++s) sums[b * segments + s] = 0.0;
  }
}

__device__ double weighted_row(int64_t b, int64_t segments, const double* sums,
                               const double* weights) {
  double sum = 0;
  for (int64_t s = 0; s < segments; ++s) sum += sums[b * segments + s];
  return sum * weights[b];
}

template <typename A>
__global__ void __launch_bounds__(kWide)
    total_kernel(int64_t rows, int64_t segments, const double* sums, const double* weights,
                 A* out) {
  __shared__ BlockSlots slots;
  Block block(slots);
  double sum = 0;
  for (int64_t b = block.thread; b < rows; b += block.threads)
    sum += weighted_row(b, segments, sums, weights);
  sum = block.sum(sum);
  if (block.thread == 0) *out = static_cast<A>(sum);
}

template <typename A>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(int64_t rows, int64_t segments, const double* sums, const double* weights, A* out) {
  const int64_t b = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (b < rows) out[b] = static_cast<A>(weighted_row(b, segments, sums, weights));
}

template <typename A>
void finish(const PoissonFinish& p, CudaStream stream) {
  A* out = static_cast<A*>(p.out);
  if (!p.by_cell)
    launch("poisson_total", total_kernel<A>, 1, kWide, 0, stream, p.rows, p.segments, p.sums,
           p.weights, out);
  else if (p.rows > 0)
    launch("poisson_rows", rows_kernel<A>, divide_up(p.rows, kThreads), kThreads, 0, stream, p.rows,
           p.segments, p.sums, p.weights, out);
}

template <typename Z>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(const Z* from, Z* to, int64_t count, const Sum<Z>* factor) {
  using A = Sum<Z>;
  constexpr int V = 16 / sizeof(Z);
  const A by = *factor;
  const Stream<const Z, V> source(from, 0);
  const Stream<Z, V> target(to, 0);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * V;
  for (int64_t place = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) * V;
       place < count; place += step) {
    A values[V];
    source.load(place, count, values);
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] *= by;
    target.store(place, count, values);
  }
}

template <typename Z>
void scale(const PoissonScale& p, CudaStream stream) {
  const int64_t blocks = divide_up(p.count, kThreads * 16 / sizeof(Z));
  launch("poisson_scale", scale_kernel<Z>, blocks < 2048 ? blocks : 2048, kThreads, 0, stream,
         static_cast<const Z*>(p.from), static_cast<Z*>(p.to), p.count,
         static_cast<const Sum<Z>*>(p.factor));
}

}  // namespace
}  // namespace poisson

}  // namespace kernomics
