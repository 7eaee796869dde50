// The K candidates with the smallest keys by one block, exactly, ties to the smaller item, as a
// bitmap of the items.
//
// The order of an item is (key, item), 64 bits: no two are equal, so ties need no rule of their
// own. One sweep over the items marks those below a bracket in which the K-th smallest is expected
// and lists the few inside it, among which one warp finds the K-th by bisection. Uniform words have
// a bracket of their own; for other keys, and for a bracket that missed, sweeps count 12 bits of
// the orders at a time until few enough are left.
//
// A source has the items:
//   kKeyBits                   how many bits a key has; with 32 the keys are uniform words
//   drawable                   whether there are keys at all
//   bits                       the bitmap, whole words of 32 items
//   sweep(block, visit)        calls visit(item, candidate, key), which tells whether the item is
//                              marked, writes the bitmap, returns how many candidates this thread
//                              had. No barrier.
#pragma once

#include "block.cuh"

namespace kernomics {

using Order = uint64_t;

constexpr int kBinBits = 12, kBins = 1 << kBinBits;
constexpr int kBandRoom = kBins / 2;
constexpr float kBracketDeviations = 4;  // one row in 16,000 misses

// Shared memory of a choice; the parts of the union are used one after the other.
struct Choice {
  union {
    uint32_t bins[kBins];
    Order band[kBandRoom];  // the orders in the bracket, in no order
    int staged[kBins];      // for whoever reads the bitmap
  };
  Order bound;                     // the K-th smallest order
  int band_count;                  // more than there is room for when the bracket was too wide
  int bin, bin_before, bin_count;  // the bin of a rank; how many are in earlier bins, and in it
};

// Orders low … high.
struct Bracket {
  Order low, high;
};

__device__ inline Order order_of(uint32_t key, int item) {
  return static_cast<Order>(key) << 32 | static_cast<uint32_t>(item);
}

// Where the k-th smallest of n > k uniform words is expected.
__device__ inline Bracket expected_bracket(int k, int n) {
  const float rank = static_cast<float>(k), all = static_cast<float>(n);
  const float away = kBracketDeviations * sqrtf(rank * (1 - rank / all)) + 2;
  // Both conversions saturate.
  const uint32_t low = __float2uint_rz((rank - away) / all * 0x1p32f);
  const uint32_t high = __float2uint_rz((rank + away) / all * 0x1p32f);
  return {order_of(low, 0), order_of(high, -1)};
}

struct Scan {
  int before, total;
};

// Sums of the values of earlier threads, and of all.
__device__ inline Scan scan(Block& b, int value) {
  int sum = value;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int left = __shfl_up_sync(kAllLanes, sum, step);
    if (b.lane >= step) sum += left;
  }
  const uint64_t* words =
      b.exchange(static_cast<uint64_t>(__shfl_sync(kAllLanes, sum, kWarpSize - 1)));
  const int word = b.lane < b.warps ? static_cast<int>(words[b.lane]) : 0;
  const int earlier = __reduce_add_sync(kAllLanes, b.lane < b.warp ? word : 0);
  return {earlier + sum - value, __reduce_add_sync(kAllLanes, word)};
}

template <typename Source>
__device__ int take_all(Block& b, Source& source) {
  return b.sum(source.sweep(b, [](int, bool candidate, uint32_t) { return candidate; }));
}

struct Tally {
  int candidates, below, within;
};

// Marks the candidates below the bracket and lists those within.
template <typename Source>
__device__ Tally collect(Block& b, Source& source, Choice& choice, Bracket bracket) {
  if (b.thread == 0) choice.band_count = 0;
  __syncthreads();  // also ends what the union held before
  const uint32_t low = static_cast<uint32_t>(bracket.low >> 32);
  const uint32_t span = static_cast<uint32_t>(bracket.high >> 32) - low;
  int below = 0;
  const int mine = source.sweep(b, [&](int item, bool candidate, uint32_t key) {
    bool smaller = candidate && key < low;
    if (candidate && key - low <= span) {
      const Order order = order_of(key, item);
      smaller = order < bracket.low;
      if (!smaller && order <= bracket.high) {
        const int p = atomicAdd(&choice.band_count, 1);
        if (p < kBandRoom) choice.band[p] = order;
      }
    }
    below += smaller ? 1 : 0;
    return smaller;
  });
  const int candidates = b.sum(mine);
  below = b.sum(below);
  return {candidates, below, choice.band_count};
}

// Marks the `rank` smallest of the orders in the band, 1 <= rank <= count <= kBandRoom.
__device__ inline void settle(Block& b, uint32_t* bits, Choice& choice, Bracket bracket, int rank,
                              int count) {
  if (b.warp == 0) {
    Order low = bracket.low, high = bracket.high;
    while (low < high) {
      const Order middle = low + (high - low) / 2;
      int found = 0;
      for (int i = b.lane; i < count; i += kWarpSize) found += choice.band[i] <= middle ? 1 : 0;
      found = __reduce_add_sync(kAllLanes, found);
      if (found < rank) {
        low = middle + 1;
      } else {
        high = middle;
        if (found == rank) low = middle;
      }
    }
    if (b.lane == 0) choice.bound = high;
  }
  __syncthreads();
  const Order bound = choice.bound;
  for (int i = b.thread; i < count; i += b.threads) {
    const Order order = choice.band[i];
    const uint32_t item = static_cast<uint32_t>(order);
    if (order <= bound) atomicOr(bits + item / 32, 1u << item % 32);
  }
  __syncthreads();
}

// Finds the bin that holds the rank-th of what was counted. Ends with a barrier.
__device__ inline void find_bin(Block& b, Choice& choice, int rank) {
  const int each = kBins / b.threads, first = b.thread * each;
  int mine = 0;
  for (int i = 0; i < each; ++i) mine += choice.bins[first + (i + b.lane) % each];
  int before = scan(b, mine).before;
  if (before < rank && rank <= before + mine) {
    int bin = first;
    for (int count; before + (count = choice.bins[bin]) < rank; ++bin) before += count;
    choice.bin = bin;
    choice.bin_before = before;
    choice.bin_count = choice.bins[bin];
  }
  __syncthreads();
}

// A bracket that holds the k-th smallest order and at most kBandRoom in all. Counts the candidates;
// if there are no more than k, the bracket means nothing.
template <typename Source>
__device__ Bracket narrow_bracket(Block& b, Source& source, Choice& choice, int k,
                                  int* candidates) {
  Order prefix = 0;  // the bits of the k-th smallest order that are known
  int unknown = Source::kKeyBits + 32, rank = k;
  *candidates = -1;
#pragma unroll 1
  for (;;) {
    const int width = unknown < kBinBits ? unknown : kBinBits;
    const int below = unknown - width;  // at most 52
    __syncthreads();
    for (int i = b.thread; i < kBins; i += b.threads) choice.bins[i] = 0;
    __syncthreads();
    const int mine = source.sweep(b, [&](int item, bool candidate, uint32_t key) {
      const Order digits = order_of(key, item) >> below;
      if (candidate && digits >> width == prefix)
        atomicAdd(choice.bins + (static_cast<uint32_t>(digits) & ((1u << width) - 1)), 1u);
      return false;
    });
    const int found = b.sum(mine);
    if (*candidates < 0) *candidates = found;
    if (*candidates <= k) return {0, 0};
    find_bin(b, choice, rank);
    prefix = prefix << width | static_cast<uint32_t>(choice.bin);
    rank -= choice.bin_before;
    unknown = below;
    if (choice.bin_count <= kBandRoom)  // one at most when no bit is unknown
      return {prefix << below, prefix << below | ((Order{1} << below) - 1)};
  }
}

// Marks the k smallest candidates, or all if they are fewer, and returns how many; −1 if k must be
// drawn from more and there are no keys. `expected` candidates decide about time, never about the
// result. Ends with a barrier.
template <typename Source>
__device__ int choose_smallest(Block& b, Source& source, Choice& choice, int k, int expected) {
  constexpr bool kUniform = Source::kKeyBits == 32;
  enum Step { kAll, kNarrow, kCollect };
  Step step = expected <= k || !source.drawable ? kAll : kUniform ? kCollect : kNarrow;
  Bracket bracket{0, 0};
  if (step == kCollect) bracket = expected_bracket(k, expected);
#pragma unroll 1
  for (;;) {
    if (step == kAll) {
      const int candidates = take_all(b, source);
      if (candidates <= k) return candidates;
      step = kNarrow;
    }
    if (!source.drawable) return -1;
    if (step == kNarrow) {
      int candidates;
      bracket = narrow_bracket(b, source, choice, k, &candidates);
      step = candidates <= k ? kAll : kCollect;
    }
    if (step == kCollect) {
      const Tally tally = collect(b, source, choice, bracket);
      if (tally.below < k && k <= tally.below + tally.within && tally.within <= kBandRoom) {
        settle(b, source.bits, choice, bracket, k - tally.below, tally.within);
        return k;
      }
      step = tally.candidates <= k ? kAll : kNarrow;
    }
  }
}

}  // namespace kernomics
