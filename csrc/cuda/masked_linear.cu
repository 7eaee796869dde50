// masked_linear on CUDA: y_b = Σ_{j∈S} m_j x_bj W_j + bias and its gradients, from the non-zeros of
// x alone. δ is the gradient of y.
//
// Forward, a block per cell: the threads look up a gene each (binary search in the cell's sorted
// columns, or of its columns in S when those are fewer), the hits are packed in order, and each
// thread adds them up for its columns of y.
// dW, and dm of a given list of genes, a block per gene: the same with cells in the place of genes.
// dm of every gene, a block per 32 genes: each warp takes 32 cells at a time, finds their
// non-zeros in the tile and adds x⟨δ_b, W_j⟩ lane by lane into shared memory.
// Every sum runs in one fixed order without atomics: the same bits on every run.
// Operations: nnz·H multiply-adds. Bytes: x, W and dW once, δ once per tile (from the L2 cache).
// Launches: 128 threads; 32 KB of shared memory at most. Nothing is allocated. An unsorted x or
// unsorted lists of genes give wrong sums, but nothing leads outside the arrays.
#include "block.cuh"
#include "csr.cuh"
#include "launch.h"
#include "scalar.cuh"

namespace kernomics {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kColumns = 4;  // of y, per thread and pass
constexpr int kTile = 32;    // genes
static_assert(kTile == kWarpSize, "a dense tile is one load per lane");

// The first place in the ascending a[begin, end) whose entry is not below x.
template <typename C>
__device__ int64_t lower_bound(const C* a, int64_t begin, int64_t end, int64_t x) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (a[middle] < x)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

// What a lane holds of one cell's share of a tile.
template <typename A>
struct Found {
  int gene;  // in the tile
  A value;
  bool any;
};

template <typename A, typename X, typename C>
struct Sparse {
  using Sum = A;
  const int64_t* indptr;
  const C* columns;
  const X* values;
  int64_t stored;

  __device__ bool fine(int64_t row) const { return row_fits(indptr, stored, row); }
  __device__ Range entries(int64_t row) const { return row_entries(indptr, stored, row); }

  // x[row, gene], 0 where nothing is stored.
  __device__ A find(int64_t row, int64_t gene) const {
    const Range all = entries(row);
    const int64_t p = lower_bound(columns, all.begin, all.end, gene);
    return p < all.end && columns[p] == gene ? static_cast<A>(widen(values[p])) : A(0);
  }

  // Candidates for hits of a row: its entries, or the k chosen genes if these are fewer.
  __device__ int64_t candidates(int64_t row, int64_t k) const {
    const Range all = entries(row);
    return min(all.end - all.begin, k);
  }

  __device__ A candidate(int64_t row, int64_t i, const int64_t* chosen, int64_t k,
                         int64_t* gene) const {
    const Range all = entries(row);
    if (all.end - all.begin >= k) return find(row, *gene = chosen[i]);
    *gene = columns[all.begin + i];
    const int64_t p = lower_bound(chosen, 0, k, *gene);
    return p < k && chosen[p] == *gene ? static_cast<A>(widen(values[all.begin + i])) : A(0);
  }

  // Where a cell's share of a tile lies.
  __device__ Range range(int64_t row, int64_t first_gene, int64_t last_gene) const {
    const Range all = entries(row);
    const int64_t begin = lower_bound(columns, all.begin, all.end, first_gene);
    return {begin, lower_bound(columns, begin, min(all.end, begin + kTile), last_gene)};
  }

  __device__ Found<A> share(int64_t, Range range, int64_t first_gene, int64_t last_gene,
                            int lane) const {
    const int64_t p = range.begin + lane;
    if (p >= range.end) return {0, A(0), false};
    const int64_t gene = columns[p];
    const bool inside = gene >= first_gene && gene < last_gene;
    return {inside ? static_cast<int>(gene - first_gene) : 0, static_cast<A>(widen(values[p])),
            inside};
  }
};

template <typename A, typename X>
struct Dense {
  using Sum = A;
  const X* values;
  int64_t row_stride, column_stride, genes;

  __device__ bool fine(int64_t) const { return true; }

  // x[row, gene], 0 for what is none of the genes.
  __device__ A find(int64_t row, int64_t gene) const {
    if (gene < 0 || gene >= genes) return A(0);
    return static_cast<A>(widen(values[row * row_stride + gene * column_stride]));
  }

  __device__ int64_t candidates(int64_t, int64_t k) const { return k; }

  __device__ A candidate(int64_t row, int64_t i, const int64_t* chosen, int64_t,
                         int64_t* gene) const {
    return find(row, *gene = chosen[i]);
  }

  __device__ Range range(int64_t, int64_t, int64_t) const { return {0, 0}; }

  __device__ Found<A> share(int64_t row, Range, int64_t first_gene, int64_t last_gene,
                            int lane) const {
    const int64_t gene = first_gene + lane;
    const A value = gene < last_gene ? find(row, gene) : A(0);
    return {lane, value, value != A(0)};
  }
};

template <typename A>
struct Hits {
  A factor[kThreads];
  int64_t index[kThreads];
};

// Packs the threads' non-zero factors in the order of the threads; returns how many there are.
template <typename A>
__device__ int pack_hits(Block& block, bool hit, A factor, int64_t index, Hits<A>& hits) {
  const unsigned votes = __ballot_sync(kAllLanes, hit);
  const uint64_t* counts = block.exchange(__popc(votes));  // all have read the previous hits
  int place = __popc(votes & ((1u << block.lane) - 1)), total = 0;
  for (int w = 0; w < kWarps; ++w) {
    place += w < block.warp ? static_cast<int>(counts[w]) : 0;
    total += static_cast<int>(counts[w]);
  }
  if (hit) {
    hits.factor[place] = factor;
    hits.index[place] = index;
  }
  __syncthreads();
  return total;
}

// sum_c += Σ_i factor_i · matrix[index_i, column + c·kThreads]
template <typename A, typename W>
__device__ void add_hits(const Hits<A>& hits, int count, const W* matrix, int64_t stride,
                         int64_t column, int64_t outputs, A* sum) {
  for (int i = 0; i < count; ++i) {
    const W* row = matrix + hits.index[i] * stride;
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
      if (column + c * kThreads < outputs)
        sum[c] += hits.factor[i] * static_cast<A>(widen(row[column + c * kThreads]));
  }
}

template <typename Source, typename A, typename W>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Source x, int64_t genes, const A* mask, int64_t mask_stride,
                   const int64_t* chosen, int64_t k, const W* weight, int64_t weight_stride,
                   int64_t outputs, const A* bias, W* y) {
  __shared__ BlockSlots slots;
  __shared__ Hits<A> hits;
  Block block(slots);
  const int64_t row = blockIdx.x, candidates = x.candidates(row, k);
  // Of an ascending list the ends tell of all.
  bool fine = x.fine(row) && (k == 0 || (chosen[0] >= 0 && chosen[k - 1] < genes));
  for (int64_t column = block.thread; column - block.thread < outputs;
       column += kColumns * kThreads) {
    A sum[kColumns];
    for (int c = 0; c < kColumns; ++c) {
      const int64_t h = column + c * kThreads;
      sum[c] = bias != nullptr && h < outputs ? bias[h] : A(0);
    }
    for (int64_t base = 0; base < candidates; base += kThreads) {
      int64_t gene = 0;
      A value = 0;
      if (base + block.thread < candidates)
        value = x.candidate(row, base + block.thread, chosen, k, &gene);
      const bool inside = gene >= 0 && gene < genes, hit = inside && value != A(0);
      if (!inside) fine = false;
      const A factor = hit ? value * mask[gene * mask_stride] : A(0);
      const int count = pack_hits(block, hit, factor, gene, hits);
      add_hits(hits, count, weight, weight_stride, column, outputs, sum);
    }
    const bool sound = __syncthreads_count(fine ? 0 : 1) == 0;
    for (int c = 0; c < kColumns; ++c)
      if (column + c * kThreads < outputs)
        narrow(sound ? sum[c] : static_cast<A>(nanf("")),
               y + row * outputs + column + c * kThreads);
  }
}

// v = Σ_b x_bj δ_b for gene j = list[block]; dW_j = m_j v and dm_j = ⟨v, W_j⟩, each unless null.
template <typename Source, typename A, typename W>
__global__ void __launch_bounds__(kThreads)
    gene_kernel(Source x, int64_t rows, int64_t genes, const int64_t* list, const A* mask,
                int64_t mask_stride, const W* weight, int64_t weight_stride, int64_t outputs,
                const W* delta, int64_t delta_stride, A* grad_mask, W* grad_weight) {
  __shared__ BlockSlots slots;
  __shared__ Hits<A> hits;
  Block block(slots);
  const int64_t gene = list[blockIdx.x];
  if (gene < 0 || gene >= genes) return;  // padding, or spoil_kernel's
  A dot = 0;
  for (int64_t column = block.thread; column - block.thread < outputs;
       column += kColumns * kThreads) {
    A sum[kColumns] = {};
    for (int64_t base = 0; base < rows; base += kThreads) {
      const int64_t row = base + block.thread;
      const A value = row < rows ? x.find(row, gene) : A(0);
      const int count = pack_hits(block, value != A(0), value, row, hits);
      add_hits(hits, count, delta, delta_stride, column, outputs, sum);
    }
    for (int c = 0; c < kColumns; ++c) {
      const int64_t h = column + c * kThreads;
      if (h >= outputs) continue;
      if (grad_weight != nullptr)
        narrow(mask[gene * mask_stride] * sum[c], grad_weight + gene * outputs + h);
      if (grad_mask != nullptr)
        dot += sum[c] * static_cast<A>(widen(weight[gene * weight_stride + h]));
    }
  }
  if (grad_mask == nullptr) return;
  dot = block.reduce(dot, A(0), [](A a, A b) { return a + b; });
  if (block.thread == 0) grad_mask[gene] = dot;
}

// A listed gene that is none of the genes: NaN at the gene next to it. −1 is padding, if allowed.
template <typename A, typename W>
__global__ void __launch_bounds__(kThreads)
    spoil_kernel(int64_t genes, const int64_t* list, int64_t count, bool padded, int64_t outputs,
                 A* grad_mask, W* grad_weight) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count || genes == 0) return;
  const int64_t gene = list[i];
  if ((gene >= 0 && gene < genes) || (padded && gene == -1)) return;
  const int64_t nearest = gene < 0 ? 0 : genes - 1;
  const A none = static_cast<A>(nanf(""));
  if (grad_mask != nullptr) grad_mask[nearest] = none;
  if (grad_weight != nullptr)
    for (int64_t h = 0; h < outputs; ++h) narrow(none, grad_weight + nearest * outputs + h);
}

template <typename Source, typename A, typename W>
__global__ void __launch_bounds__(kThreads)
    tile_kernel(Source x, int64_t rows, int64_t genes, const W* weight, int64_t weight_stride,
                int64_t outputs, const W* delta, int64_t delta_stride, A* grad_mask) {
  __shared__ A partial[kWarps][kTile][kWarpSize];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile, end = min(begin + kTile, genes);
  for (int g = 0; g < kTile; ++g) partial[warp][g][lane] = A(0);
  for (int64_t first = warp * kWarpSize; first < rows; first += kThreads) {
    const int64_t mine = first + lane;  // each lane searches one row
    const Range range = mine < rows ? x.range(mine, begin, end) : Range{0, 0};
    const int count = static_cast<int>(min(rows - first, static_cast<int64_t>(kWarpSize)));
    for (int r = 0; r < count; ++r) {
      const int64_t row = first + r;
      const Range part{__shfl_sync(kAllLanes, range.begin, r),
                       __shfl_sync(kAllLanes, range.end, r)};
      const Found<A> found = x.share(row, part, begin, end, lane);
      const unsigned some = __ballot_sync(kAllLanes, found.any);
      if (some == 0) continue;
      for (int64_t column = lane; column - lane < outputs; column += kColumns * kWarpSize) {
        A d[kColumns];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int64_t h = column + c * kWarpSize;
          d[c] = h < outputs ? static_cast<A>(widen(delta[row * delta_stride + h])) : A(0);
        }
        for (unsigned rest = some; rest != 0; rest &= rest - 1) {
          const int from = __ffs(rest) - 1;
          const int gene = __shfl_sync(kAllLanes, found.gene, from);
          const A value = __shfl_sync(kAllLanes, found.value, from);
          const W* w = weight + (begin + gene) * weight_stride;
          A sum = 0;
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            const int64_t h = column + c * kWarpSize;
            if (h < outputs) sum += d[c] * static_cast<A>(widen(w[h]));
          }
          partial[warp][gene][lane] += value * sum;
        }
      }
    }
  }
  __syncthreads();
  for (int g = warp; g < end - begin; g += kWarps) {
    A sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += partial[w][g][lane];
    for (int step = kWarpSize / 2; step > 0; step /= 2)
      sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (lane == 0) grad_mask[begin + g] = sum;
  }
}

// Calls body(source, W()) with the types that the arguments name.
template <typename A, typename X, typename W, typename Body>
void with_source(const LinearLayer<void>& a, Body body) {
  const X* values = static_cast<const X*>(a.x.values);
  if (a.x.indptr == nullptr)
    body(Dense<A, X>{values, a.x.row_stride, a.x.column_stride, a.x.genes}, W());
  else if (a.x.wide_columns)
    body(Sparse<A, X, int64_t>{a.x.indptr, static_cast<const int64_t*>(a.x.columns), values,
                               a.x.stored},
         W());
  else
    body(Sparse<A, X, int32_t>{a.x.indptr, static_cast<const int32_t*>(a.x.columns), values,
                               a.x.stored},
         W());
}

template <typename W, typename Body>
void with_half(const LinearLayer<void>& a, Body body) {
  if (a.x.values_kind == a.weight_kind)
    with_source<float, W, W>(a, body);
  else
    with_source<float, float, W>(a, body);
}

template <typename Body>
void with_types(const LinearLayer<void>& a, Body body) {
  if (a.weight_kind == kFloat64)
    with_source<double, double, double>(a, body);
  else if (a.weight_kind == kBFloat16)
    with_half<__nv_bfloat16>(a, body);
  else if (a.weight_kind == kFloat16)
    with_half<__half>(a, body);
  else
    with_source<float, float, float>(a, body);
}

}  // namespace

void masked_linear_forward(const LinearForward<void>& f, CudaStream stream) {
  const LinearLayer<void>& a = f.layer;
  if (a.x.rows == 0) return;
  with_types(a, [&](auto source, auto w) {
    using Source = decltype(source);
    using A = typename Source::Sum;
    using W = decltype(w);
    launch("masked_linear_forward", forward_kernel<Source, A, W>, a.x.rows, kThreads, 0, stream,
           source, a.x.genes, static_cast<const A*>(a.mask), a.mask_stride, a.chosen, a.k,
           static_cast<const W*>(a.weight), a.weight_stride, a.outputs,
           static_cast<const A*>(f.bias), static_cast<W*>(f.y));
  });
}

void masked_linear_backward(const LinearBackward<void>& g, CudaStream stream) {
  const LinearLayer<void>& a = g.layer;
  with_types(a, [&](auto source, auto w) {
    using Source = decltype(source);
    using A = typename Source::Sum;
    using W = decltype(w);
    const A* mask = static_cast<const A*>(a.mask);
    const W *weight = static_cast<const W*>(a.weight), *d = static_cast<const W*>(g.delta);
    const auto per_gene = [&](const char* name, const int64_t* list, int64_t count, A* dm, W* dw) {
      if (count == 0) return;
      launch(name, gene_kernel<Source, A, W>, count, kThreads, 0, stream, source, a.x.rows,
             a.x.genes, list, mask, a.mask_stride, weight, a.weight_stride, a.outputs, d,
             g.delta_stride, dm, dw);
      launch(name, spoil_kernel<A, W>, divide_up(count, kThreads), kThreads, 0, stream, a.x.genes,
             list, count, dm != nullptr, a.outputs, dm, dw);
    };
    if (g.grad_weight != nullptr)
      per_gene("masked_linear_grad_weight", a.chosen, a.k, nullptr, static_cast<W*>(g.grad_weight));
    if (g.grad_mask == nullptr) return;
    if (a.reached != nullptr)
      per_gene("masked_linear_grad_mask", a.reached, a.reach, static_cast<A*>(g.grad_mask),
               nullptr);
    else if (a.x.genes > 0)
      launch("masked_linear_grad_mask", tile_kernel<Source, A, W>, divide_up(a.x.genes, kTile),
             kThreads, 0, stream, source, a.x.rows, a.x.genes, weight, a.weight_stride, a.outputs,
             d, g.delta_stride, static_cast<A*>(g.grad_mask));
  });
}

}  // namespace kernomics
