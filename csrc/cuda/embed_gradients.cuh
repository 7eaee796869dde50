// The kernels of embed_tokens' gradients, and how embed_tokens moves numbers.
#pragma once

#include <climits>

#include "keys.cuh"
#include "launch.h"
#include "scalar.cuh"

namespace kernomics {

constexpr int kEmbedThreads = 256;
constexpr int kAtOnce = 4;  // rows or pieces that a thread has under way

// N numbers that are moved at once.
template <typename T, int N>
struct alignas(N * sizeof(T)) Piece {
  T at[N];
};

// What is read or written once leaves the table in the L2 cache.
template <typename P>
__device__ __forceinline__ P load_once(const P* from) {
  if constexpr (sizeof(P) != sizeof(int4)) {
    return *from;
  } else {
    const int4 bits = __ldcs(reinterpret_cast<const int4*>(from));
    P piece;
    memcpy(&piece, &bits, sizeof piece);
    return piece;
  }
}

template <typename P>
__device__ __forceinline__ void store_once(P* to, const P& piece) {
  if constexpr (sizeof(P) != sizeof(int4)) {
    *to = piece;
  } else {
    int4 bits;
    memcpy(&bits, &piece, sizeof bits);
    __stcs(reinterpret_cast<int4*>(to), bits);
  }
}

template <typename T>
__device__ T rounded(Sum<T> x) {
  T result;
  narrow(x, &result);
  return result;
}

// The row of δ of a position in gene_ids.
__device__ inline uint32_t row_of(uint32_t position, uint32_t tokens, int with_cls) {
  return with_cls != 0 ? position + position / tokens + 1 : position;
}

// ---- lists -------------------------------------------------------------------------------------

// The tokens of gene j are rows[starts[j]] … rows[starts[j] + counts[j] − 1] of δ, in any order.
struct Lists {
  int* counts;     // [genes], and one more: how many entries are given away
  int* starts;     // [genes]
  int* tickets;    // [positions], each position's number in its gene's list
  uint32_t* rows;  // [positions]
};

inline Lists carve_lists(Carver& carver, int64_t positions, int64_t genes) {
  return {carver.take<int>(genes + 1), carver.take<int>(genes), carver.take<int>(positions),
          carver.take<uint32_t>(positions)};
}

template <typename I>
__device__ bool is_gene(I id, int64_t genes) {
  return id >= 0 && static_cast<int64_t>(id) < genes;
}

template <typename I>
__global__ void __launch_bounds__(kEmbedThreads)
    count_genes(const I* ids, int64_t positions, int64_t genes, Lists lists) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * kEmbedThreads + threadIdx.x;
  if (p >= positions) return;
  const I id = ids[p];
  if (is_gene(id, genes)) lists.tickets[p] = atomicAdd(lists.counts + id, 1);
}

// Where each gene's list lies is of no matter, so no scan over all genes is needed.
static __global__ void __launch_bounds__(kEmbedThreads) reserve_lists(int64_t genes, Lists lists) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kEmbedThreads + threadIdx.x;
  const int lane = threadIdx.x % kWarpSize, count = j < genes ? lists.counts[j] : 0;
  int sum = count;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int left = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += left;
  }
  int base = 0;
  if (lane == kWarpSize - 1) base = atomicAdd(lists.counts + genes, sum);
  base = __shfl_sync(kAllLanes, base, kWarpSize - 1);
  if (j < genes) lists.starts[j] = base + sum - count;
}

template <typename I>
__global__ void __launch_bounds__(kEmbedThreads)
    fill_lists(const I* ids, int64_t positions, uint32_t tokens, int with_cls, int64_t genes,
               Lists lists) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * kEmbedThreads + threadIdx.x;
  if (p >= positions) return;
  const I id = ids[p];
  if (is_gene(id, genes))
    lists.rows[lists.starts[id] + lists.tickets[p]] =
        row_of(static_cast<uint32_t>(p), tokens, with_cls);
}

// ---- sums --------------------------------------------------------------------------------------

struct ListedRow {
  uint32_t row;
  __device__ bool before(const ListedRow& other) const { return row < other.row; }
};

template <typename T>
struct SumArgs {
  const T* delta;
  int64_t token_stride;
  uint32_t cells, length;
  int pieces;
  bool concat, with_cls;  // block 0 has CLS, if it is wanted
  Lists lists;
  T *table, *cls;
};

template <int N, typename T>
__global__ void __launch_bounds__(kEmbedThreads) sum_rows(SumArgs<T> a) {
  using P = Piece<T, N>;
  __shared__ BlockSlots slots;
  Block b(slots);
  const int64_t gene = static_cast<int64_t>(blockIdx.x) - (a.with_cls ? 1 : 0);
  const bool is_cls = gene < 0;
  const int count = is_cls ? static_cast<int>(a.cells) : a.lists.counts[gene];
  uint32_t* list = is_cls ? nullptr : a.lists.rows + a.lists.starts[gene];
  if (!is_cls && count > kWarpSize) sort_entries(b, reinterpret_cast<ListedRow*>(list), count);
  T* out = is_cls ? a.cls : a.table + gene * a.pieces * N;
  for (int first = 0; first < a.pieces; first += b.threads) {
    const int v = first + b.thread;
    const bool mine = v < a.pieces;
    Sum<T> sum[N];
    for (Sum<T>& s : sum) s = 0;
    for (int base = 0; base < count; base += kWarpSize) {
      // A warp holds 32 rows, sorted or all there are, and takes the smallest that is left.
      uint32_t waiting = UINT_MAX;
      if (base + b.lane < count)
        waiting = is_cls ? (base + b.lane) * a.length : list[base + b.lane];
      const int here = count - base < kWarpSize ? count - base : kWarpSize;
      for (int i = 0; i < here; i += kAtOnce) {
        P piece[kAtOnce];
#pragma unroll
        for (int m = 0; m < kAtOnce; ++m) {
          if (i + m >= here) break;
          const uint32_t next = __reduce_min_sync(kAllLanes, waiting);
          if (waiting == next) waiting = UINT_MAX;
          if (mine)
            piece[m] = load_once(reinterpret_cast<const P*>(a.delta + next * a.token_stride) + v);
        }
#pragma unroll
        for (int m = 0; m < kAtOnce; ++m) {
          if (i + m >= here) break;
#pragma unroll
          for (int e = 0; e < N; ++e)
            if (mine) sum[e] += widen(piece[m].at[e]);
        }
      }
    }
    if (!mine) continue;
    P piece;
#pragma unroll
    for (int e = 0; e < N; ++e) piece.at[e] = rounded<T>(sum[e]);
    if (a.concat && !is_cls && v == a.pieces - 1) piece.at[N - 1] = rounded<T>(Sum<T>(0));
    reinterpret_cast<P*>(out)[v] = piece;
  }
}

// dx [positions], 0 for padding.
template <typename T, typename I>
__global__ void __launch_bounds__(kEmbedThreads)
    copy_last_column(const I* ids, int64_t positions, uint32_t tokens, int with_cls, int64_t genes,
                     int64_t width, const T* delta, int64_t token_stride, T* out) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * kEmbedThreads + threadIdx.x;
  if (p >= positions) return;
  const uint32_t row = row_of(static_cast<uint32_t>(p), tokens, with_cls);
  out[p] = is_gene(ids[p], genes) ? delta[row * token_stride + width - 1] : rounded<T>(Sum<T>(0));
}

// dv [positions, width], zeros for padding. 2^group_bits threads copy a row.
template <int N, typename T, typename I>
__global__ void __launch_bounds__(kEmbedThreads)
    copy_rows(const I* ids, int64_t positions, uint32_t tokens, int with_cls, int64_t genes,
              int pieces, int group_bits, const T* delta, int64_t token_stride, T* out) {
  using P = Piece<T, N>;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kEmbedThreads + threadIdx.x;
  const int64_t p = thread >> group_bits;
  const int group = 1 << group_bits;
  if (p >= positions) return;
  const uint32_t row = row_of(static_cast<uint32_t>(p), tokens, with_cls);
  const P* from = reinterpret_cast<const P*>(delta + row * token_stride);
  P* to = reinterpret_cast<P*>(out) + p * pieces;
  const bool there = is_gene(ids[p], genes);
#pragma unroll 4
  for (int v = static_cast<int>(thread & (group - 1)); v < pieces; v += group) {
    P piece;
    if (there) {
      piece = load_once(from + v);
    } else {
#pragma unroll
      for (T& x : piece.at) x = rounded<T>(Sum<T>(0));
    }
    store_once(to + v, piece);
  }
}

}  // namespace kernomics
