// Forward kernels of gumbel_topk: perturb the scores, choose k genes, write y, mask and indices.
//
// `choose_in_chunks` holds one chunk of one row in shared memory. When the chunk is the whole row
// it finishes the row; otherwise it leaves the chunk's own k best as candidates (the row's k best
// are among them, ties included), and `choose_of_candidates` finishes. When there would be too
// many candidates, `choose_in_memory` selects from y in global memory instead.
#pragma once

#include "../common/gumbel_topk.h"
#include "../common/philox.h"
#include "select.cuh"

namespace kernomics {

constexpr int kChunkThreads = 512;
constexpr int kMemoryThreads = 1024;

// Infinite and NaN values of a row or a part of it.
struct Census {
  int nan, forced, forbidden, unused;
};

template <typename T>
__device__ void count_special(typename KeyOf<T>::Key key, Census& census) {
  using K = KeyOf<T>;
  census.nan += key > K::kForced || key < K::kForbidden ? 1 : 0;
  census.forced += key == K::kForced ? 1 : 0;
  census.forbidden += key == K::kForbidden ? 1 : 0;
}

__device__ inline Census sum_census(Block& b, const Census& mine) {
  return {b.sum(mine.nan), b.sum(mine.forced), b.sum(mine.forbidden), 0};
}

// The fault of a row and its count, as on the CPU.
__device__ inline int2 judge_row(const Census& c, int genes, int k) {
  if (c.nan > 0) return make_int2(kRowNaN, c.nan);
  if (c.forced > k) return make_int2(kRowForced, c.forced);
  if (genes - c.forbidden < k) return make_int2(kRowUsable, genes - c.forbidden);
  return make_int2(kRowFine, 0);
}

template <typename T>
__device__ T not_a_number() {
  return static_cast<T>(nanf(""));
}

template <typename T>
struct ChooseArgs {
  using Key = typename KeyOf<T>::Key;
  const T* scores;
  int64_t row_stride, rows;
  int genes, k;
  T noise_scale;
  const int64_t *seed, *row_ids;  // row_ids: null for 0 … rows − 1
  uint32_t stream;
  T* y;  // or null
  T* mask;
  int64_t* indices;
  int32_t* faults;
  bool pack_scores, pack_y;  // 16-byte accesses are aligned
  int chunk, splits;         // columns of a chunk (a multiple of 4), chunks of a row
  int local;                 // candidates a chunk keeps; 0 when they are not wanted
  int survivors;             // capacity of the selection's first sweep
  Key* candidate_keys;       // [rows, splits, local]
  int* candidate_columns;
  Census* census;  // [rows, splits]
};

// As judge_row, and the row's id must be one that the random words can address.
template <typename T>
__device__ int2 judge_choice(const ChooseArgs<T>& a, int64_t row, const Census& census) {
  if (a.row_ids != nullptr && static_cast<uint64_t>(a.row_ids[row]) >> 48 != 0)
    return make_int2(kRowId, 0);
  return judge_row(census, a.genes, a.k);
}

// The row's verdict, once its genes are emitted as indices and ones: NaN where something is wrong.
template <typename T>
__device__ void close_row(const Block& b, const ChooseArgs<T>& a, int64_t row, int2 fault) {
  if (b.thread == 0) {
    a.faults[2 * row] = fault.x;
    a.faults[2 * row + 1] = fault.y;
  }
  if (fault.x != kRowFine) fill_row<T>(b, a.mask + row * a.genes, a.genes, not_a_number<T>());
}

template <typename T>
__global__ void __launch_bounds__(kChunkThreads, 2) choose_in_chunks(ChooseArgs<T> a) {
  using Key = typename KeyOf<T>::Key;
  __shared__ BlockSlots slots;
  Block b(slots);
  const int64_t row = blockIdx.x / a.splits;
  const int part = static_cast<int>(blockIdx.x % a.splits);
  const int begin = part * a.chunk;
  const int n = a.genes - begin < a.chunk ? a.genes - begin : a.chunk;
  Key* keys = reinterpret_cast<Key*>(dynamic_shared());
  const Survivors<Key> survivors{keys + a.chunk,
                                 reinterpret_cast<int*>(keys + a.chunk + a.survivors), a.survivors};
  const T* scores = a.scores + row * a.row_stride + begin;
  T* y = a.y == nullptr ? nullptr : a.y + row * a.genes + begin;
  T* mask = a.mask + row * a.genes + begin;

  fill_row<T>(b, mask, n, T(0));
  const bool noisy = a.noise_scale != T(0);
  PhiloxKey philox{};
  PhiloxCounter counter{};
  if (noisy) {
    philox = philox_key(a.seed[0]);
    counter = philox_row_counter(a.row_ids == nullptr ? row : a.row_ids[row], a.stream, a.seed[1]);
  }
  // A thread's largest key is what the selection's short cut needs; the smallest and the largest
  // of all tell whether any value is not finite.
  KeyRange<Key> range{Key(0), ~Key(0), Key(0)};
  for (int q = b.thread; 4 * q < n; q += b.threads) {
    const int j = 4 * q;
    const bool full = n - j >= 4;
    Pack<T> x;
    if (full && a.pack_scores) {
      x = *reinterpret_cast<const Pack<T>*>(scores + j);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) x.at[i] = j + i < n ? scores[j + i] : T(0);
    }
    if (noisy) {
      PhiloxCounter c = counter;
      c.c0 = static_cast<uint32_t>(begin + j) / 4;
      c = philox4x32_10(c, philox);
      const uint32_t words[4] = {c.c0, c.c1, c.c2, c.c3};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        x.at[i] = add(x.at[i], mul(a.noise_scale, static_cast<T>(gumbel(words[i]))));
    }
    if (y != nullptr) {
      if (full && a.pack_y) {
        *reinterpret_cast<Pack<T>*>(y + j) = x;
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (j + i < n) y[j + i] = x.at[i];
      }
    }
    if (!full) {  // columns that are not there repeat one that is
#pragma unroll
      for (int i = 1; i < 4; ++i) x.at[i] = j + i < n ? x.at[i] : x.at[0];
    }
    Pack<Key> four;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      four.at[i] = KeyOf<T>::key(x.at[i]);
      range.mine = four.at[i] > range.mine ? four.at[i] : range.mine;
      range.low = four.at[i] < range.low ? four.at[i] : range.low;
    }
    *reinterpret_cast<Pack<Key>*>(keys + j) = four;  // chunks are padded to fours
  }
  range.low = b.min(range.low);
  range.high = b.max(range.mine);

  Census census{0, 0, 0, 0};
  if (range.high >= KeyOf<T>::kForced || range.low <= KeyOf<T>::kForbidden) {
    for (int j = b.thread; j < n; j += b.threads) count_special<T>(keys[j], census);
    census = sum_census(b, census);
  }
  const bool whole = a.splits == 1;  // this chunk is the row
  const int2 fault = whole ? judge_choice(a, row, census) : make_int2(kRowFine, 0);
  const int64_t slot = row * a.splits + part;
  if (!whole && b.thread == 0) a.census[slot] = census;
  if (!whole && a.local == 0) return;
  const int k = whole ? a.k : (a.local < n ? a.local : n);
  const auto at = [keys](int j) { return keys[j]; };
  select_largest(b, at, n, k, range, survivors, [&](int j, int p) {
    if (whole) {
      a.indices[row * a.k + p] = j;
      if (fault.x == kRowFine) mask[j] = T(1);
    } else {
      a.candidate_keys[slot * a.local + p] = keys[j];
      a.candidate_columns[slot * a.local + p] = begin + j;
    }
  });
  if (whole) close_row(b, a, row, fault);
}

template <typename Key, typename At>
__device__ KeyRange<Key> sweep_range(Block& b, At at, int n) {
  KeyRange<Key> range{Key(0), ~Key(0), Key(0)};
#pragma unroll 8
  for (int j = b.thread; j < n; j += b.threads) {
    const Key key = at(j);
    range.mine = key > range.mine ? key : range.mine;
    range.low = key < range.low ? key : range.low;
  }
  range.low = b.min(range.low);
  range.high = b.max(range.mine);
  return range;
}

// Chooses k of n keys and finishes a row whose mask is zero. column(j) is the gene of key j.
template <typename T, typename At, typename Column>
__device__ void choose_row(Block& b, const ChooseArgs<T>& a, int64_t row, At at, int n,
                           Survivors<typename KeyOf<T>::Key> survivors, Column column) {
  Census census{0, 0, 0, 0};
  for (int i = b.thread; i < a.splits; i += b.threads) {
    const Census part = a.census[row * a.splits + i];
    census = {census.nan + part.nan, census.forced + part.forced, census.forbidden + part.forbidden,
              0};
  }
  const int2 fault = judge_choice(a, row, sum_census(b, census));
  const auto range = sweep_range<typename KeyOf<T>::Key>(b, at, n);
  int64_t* indices = a.indices + row * a.k;
  T* mask = a.mask + row * a.genes;
  select_largest(b, at, n, a.k, range, survivors, [&](int i, int p) {
    const int j = column(i);
    indices[p] = j;
    if (fault.x == kRowFine) mask[j] = T(1);
  });
  close_row(b, a, row, fault);
}

template <typename T>
__global__ void __launch_bounds__(kChunkThreads, 1) choose_of_candidates(ChooseArgs<T> a) {
  using Key = typename KeyOf<T>::Key;
  __shared__ BlockSlots slots;
  Block b(slots);
  const int64_t row = blockIdx.x, slot = row * a.splits * a.local;
  const int last = a.genes - (a.splits - 1) * a.chunk;  // columns of the last chunk
  const int n = (a.splits - 1) * a.local + (last < a.local ? last : a.local);
  Key* keys = reinterpret_cast<Key*>(dynamic_shared());
  Key* survivor_keys = keys + static_cast<int64_t>(a.splits) * a.local;
  const Survivors<Key> survivors{survivor_keys, reinterpret_cast<int*>(survivor_keys + a.survivors),
                                 a.survivors};
  for (int i = b.thread; i < n; i += b.threads) keys[i] = a.candidate_keys[slot + i];
  __syncthreads();
  choose_row(
      b, a, row, [keys](int i) { return keys[i]; }, n, survivors,
      [&](int i) { return a.candidate_columns[slot + i]; });
}

template <typename T>
__global__ void __launch_bounds__(kMemoryThreads, 1) choose_in_memory(ChooseArgs<T> a) {
  using Key = typename KeyOf<T>::Key;
  __shared__ BlockSlots slots;
  Block b(slots);
  const int64_t row = blockIdx.x;
  const T* y = a.y + row * a.genes;
  Key* keys = reinterpret_cast<Key*>(dynamic_shared());
  const Survivors<Key> survivors{keys, reinterpret_cast<int*>(keys + a.survivors), a.survivors};
  choose_row(
      b, a, row, [y](int j) { return KeyOf<T>::key(y[j]); }, a.genes, survivors,
      [](int j) { return j; });
}

}  // namespace kernomics
