// poisson_nll on CUDA: activation, loss and gradient in one sweep over the logits.
//
// A block takes a row, or one of `segments` parts of it where rows are few, in tiles of 8 genes a
// thread (float64: 4): logits in 16-byte words, the target rates y, losses and derivatives, the sum
// of the losses, the scaled gradient. Of a CSR row, y of a tile stands in shared memory: the rate
// of a zero everywhere, then the tile's non-zeros over it, found by one cursor along the row;
// whoever reads a rate puts the zero's back, and two tiles take turns, so each has one barrier. A
// tile's losses are added in float32 (float64), tiles and threads in float64 in a fixed order
// without atomics: the same bits on every run.
// Bytes: logits and a dense target once, the gradient once, 8 a non-zero; that is the floor. About
// 25 instructions an element with TxFM's activation, 3 of them special functions (4 with a dense
// log1p target), some 100 µs of an H200 for 4,096 × 20,000.
// Launches: 128 threads, 8 KB of shared memory for CSR. Nothing is allocated. A row of logits may
// begin anywhere: tiles are shifted to 16-byte words of it, and other rows that do not fall in step
// are read and written number by number. Panels and row pointers at fault give no access outside
// the arrays; bad columns give the loss NaN.
#include "launch.h"
#include "poisson_reduce.cuh"
#include "poisson_row.cuh"

namespace kernomics {
namespace poisson {
namespace {

template <int Act, typename Z, typename Y, bool Sparse>
__global__ void __launch_bounds__(kThreads)
    sweep_kernel(PoissonProblem<void> a, PoissonStrip<void> s, Law<Sum<Z>> law, int64_t length,
                 const double* units, const double* weights) {
  using A = Sum<Z>;
  constexpr int V = 16 / sizeof(Z), kVectors = kItems<A> / V;
  __shared__ BlockSlots slots;
  __shared__ __align__(16) A rates[Sparse ? 2 * kTile<A> : 1];
  Block block(slots);
  const int64_t b = blockIdx.x / s.segments, segment = blockIdx.x % s.segments;
  const Z* row = static_cast<const Z*>(s.logits) + b * s.logits_stride;
  // Places of the tiles: gene i of the strip has place i + shift.
  const int64_t shift = reinterpret_cast<uintptr_t>(row) % 16 / sizeof(Z), last = s.count + shift;
  const int64_t begin = segment * length, end = min(begin + length, last);
  if (begin >= end) return;
  const A unit = static_cast<A>(units[b]), weight = static_cast<A>(weights[b]);
  const A of_zero = a.target_kind == kTargetRate ? A(0) : A(1);

  const Stream<const Z, V> logits(row, shift);
  const Stream<const Y, V> target(
      Sparse ? nullptr : static_cast<const Y*>(a.values) + b * a.row_stride + s.first, shift);
  const Stream<Z, V> gradient(
      s.gradient == nullptr ? nullptr : static_cast<Z*>(s.gradient) + b * s.gradient_stride, shift);
  const Stream<A, V> each(s.loss == nullptr ? nullptr : static_cast<A*>(s.loss) + b * s.count,
                          shift);
  const Stream<const A, V> upstream(
      s.upstream == nullptr ? nullptr : static_cast<const A*>(s.upstream) + b * s.upstream_stride,
      shift);
  const uint8_t* panel = nullptr;
  if (a.panel != nullptr && a.panels > 0) {
    const int64_t index = min(max(static_cast<int64_t>(a.panel[b]), int64_t(0)), a.panels - 1);
    panel = a.mask + index * a.genes + s.first;
  }
  const Stream<const uint8_t, V> observed(panel, shift);

  Range range{0, 0};
  if constexpr (Sparse) range = row_entries(a.indptr, a.stored, b);
  Entries<A> entries(a, range);
  if constexpr (Sparse) {
    for (int i = block.thread; i < 2 * kTile<A>; i += kThreads) rates[i] = of_zero;
    const int64_t first = s.first + max(begin - shift, int64_t(0));
    if (first > 0) entries.seek(first);
    __syncthreads();
  }

  double sum = 0;
  int turn = 0;
  for (int64_t tile = begin; tile < end; tile += kTile<A>, turn ^= 1) {
    const int64_t base = tile - shift;  // in the strip
    A z[kItems<A>], y[kItems<A>], loss[kItems<A>], derivative[kItems<A>];
#pragma unroll
    for (int u = 0; u < kVectors; ++u)
      logits.load(base + (u * kThreads + block.thread) * V, s.count, z + u * V);
    if constexpr (Sparse) {
      A* tile_rates = rates + turn * kTile<A>;
      const int64_t origin = s.first + base;
      entries.template scatter<V>(origin, max(origin, s.first),
                                  s.first + min(base + kTile<A>, s.count), unit, tile_rates);
#pragma unroll
      for (int u = 0; u < kVectors; ++u)
        take_rates<V>(tile_rates, (u * kThreads + threadIdx.x) * V, of_zero, y + u * V);
    } else {
#pragma unroll
      for (int u = 0; u < kVectors; ++u)
        target.load(base + (u * kThreads + block.thread) * V, s.count, y + u * V);
      to_rates<kItems<A>>(a.target_kind, unit, y);
    }
#pragma unroll
    for (int i = 0; i < kItems<A>; ++i) point<Act>(z[i], y[i], law, loss + i, derivative + i);
    if (a.full) {
#pragma unroll
      for (int i = 0; i < kItems<A>; ++i) loss[i] += stirling(y[i]);
    }

    A part = 0;
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      const int64_t place = base + (u * kThreads + block.thread) * V;
      A *losses = loss + u * V, *derivatives = derivative + u * V;
      if (observed) {
        uint8_t seen[V];
        observed.load(place, s.count, seen);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          losses[i] = seen[i] != 0 ? losses[i] : A(0);
          derivatives[i] = seen[i] != 0 ? derivatives[i] : A(0);
        }
      }
      if (place < 0 || place + V > s.count) {
#pragma unroll
        for (int i = 0; i < V; ++i)
          losses[i] = place + i >= 0 && place + i < s.count ? losses[i] : A(0);
      }
#pragma unroll
      for (int i = 0; i < V; ++i) part += losses[i];
      if (each) {
#pragma unroll
        for (int i = 0; i < V; ++i) losses[i] += weight * A(0);  // NaN in a row at fault
        each.store(place, s.count, losses);
      }
      if (gradient) {
        if (upstream) {
          A above[V];
          upstream.load(place, s.count, above);
#pragma unroll
          for (int i = 0; i < V; ++i) derivatives[i] *= above[i];
        }
#pragma unroll
        for (int i = 0; i < V; ++i) derivatives[i] *= weight;
        gradient.store(place, s.count, derivatives);
      }
    }
    sum += part;
  }

  if constexpr (Sparse) {
    const bool all = end == last && s.first + s.count == a.genes;
    if (entries.fault() || (all && entries.left_over())) sum = nan("");
  }
  sum = block.sum(sum);
  if (block.thread == 0) s.sums[blockIdx.x] += sum;
}

template <int Act, typename Z, typename Y, bool Sparse>
void sweep(const PoissonProblem<void>& a, const PoissonStrip<void>& s, const double* units,
           const double* weights, CudaStream stream) {
  using A = Sum<Z>;
  const int64_t places = s.count + 16 / sizeof(Z) - 1, tiles = (places + kTile<A> - 1) / kTile<A>;
  const int64_t length = (tiles + s.segments - 1) / s.segments * kTile<A>;
  launch("poisson_nll", sweep_kernel<Act, Z, Y, Sparse>, a.rows * s.segments, kThreads, 0, stream,
         a, s, make_law<A>(a.target_sum, a.eps), length, units, weights);
}

template <typename Z, typename Y, bool Sparse, typename... Rest>
void with_activation(const PoissonProblem<void>& a, const Rest&... rest) {
  switch (a.activation) {
    case kRectifiedTanh:
      return sweep<kRectifiedTanh, Z, Y, Sparse>(a, rest...);
    case kRelu:
      return sweep<kRelu, Z, Y, Sparse>(a, rest...);
    case kClampedRelu:
      return sweep<kClampedRelu, Z, Y, Sparse>(a, rest...);
    case kExp:
      return sweep<kExp, Z, Y, Sparse>(a, rest...);
    case kSoftplus:
      return sweep<kSoftplus, Z, Y, Sparse>(a, rest...);
    default:
      return sweep<kIdentity, Z, Y, Sparse>(a, rest...);
  }
}

template <typename Z, typename... Rest>
void with_layout(const PoissonProblem<void>& a, const Rest&... rest) {
  if (a.indptr != nullptr)
    with_activation<Z, Sum<Z>, true>(a, rest...);
  else if (std::is_same_v<Z, __nv_bfloat16> && a.values_kind == kBFloat16)
    with_activation<Z, Z, false>(a, rest...);
  else
    with_activation<Z, Sum<Z>, false>(a, rest...);
}

}  // namespace
}  // namespace poisson

void poisson_sweep(const PoissonSweep<void>& p, CudaStream stream) {
  const PoissonProblem<void>& a = p.problem;
  const PoissonStrip<void>& s = p.strip;
  if (a.rows == 0 || s.count == 0) return;
  if (s.logits_kind == kFloat64)
    poisson::with_layout<double>(a, s, p.units, p.weights, stream);
  else if (s.logits_kind == kBFloat16)
    poisson::with_layout<__nv_bfloat16>(a, s, p.units, p.weights, stream);
  else
    poisson::with_layout<float>(a, s, p.units, p.weights, stream);
}

void poisson_prepare(const PoissonPrepare<void>& p, CudaStream stream) {
  const PoissonProblem<void>& a = p.problem;
  if (a.rows == 0) return;
  if (a.target_kind == kTargetCounts && a.library == nullptr) {
    const auto library = [&](auto kernel) {
      launch("poisson_library", kernel, a.rows, poisson::kThreads, 0, stream, a, p.units);
    };
    if (a.values_kind == kFloat64)
      library(poisson::library_kernel<double>);
    else if (a.values_kind == kBFloat16)
      library(poisson::library_kernel<__nv_bfloat16>);
    else
      library(poisson::library_kernel<float>);
  }
  const bool alone = p.reduction == kReduceGenes && a.panel != nullptr;
  launch("poisson_prepare", poisson::prepare_kernel,
         alone ? 1 : divide_up(a.rows, poisson::kThreads),
         alone ? poisson::kWide : poisson::kThreads, 0, stream, a, p.reduction, p.segments, p.units,
         p.weights, p.sums);
}

void poisson_finish(const PoissonFinish& p, CudaStream stream) {
  if (p.out_kind == kFloat64)
    poisson::finish<double>(p, stream);
  else
    poisson::finish<float>(p, stream);
}

void poisson_scale(const PoissonScale& p, CudaStream stream) {
  if (p.count == 0) return;
  if (p.kind == kFloat64)
    poisson::scale<double>(p, stream);
  else if (p.kind == kBFloat16)
    poisson::scale<__nv_bfloat16>(p, stream);
  else
    poisson::scale<float>(p, stream);
}

}  // namespace kernomics
