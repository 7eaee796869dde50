// The k largest of n keys by one block, exactly, ties to the smaller position, in order of
// position.
//
// The k-th largest key is found by bisection over the keys' own range: each round counts the keys
// at or above the middle and has one barrier, and it stops as soon as exactly k are left. No
// histogram: Gumbel winners share about three exponents, so their bins would collapse, and a
// bisection needs neither atomics nor a layout.
// Short cut for small k: the k-th largest of the threads' own maxima is at most the k-th largest
// key and, with at least 2k threads, little below it. One sweep keeps the keys that reach it
// (about 1.1–1.4 k), and only those are bisected.
#pragma once

#include <climits>

#include "keys.cuh"

namespace kernomics {

// What passes: keys above `kth`, and of those equal to it the first `ties`.
template <typename Key>
struct Cut {
  Key kth;
  int ties;
};

// count(x) is this thread's number of keys >= x; summed over the block it must be at least k at lo
// and less than k above hi. The cut passes k keys or, where that saves rounds, up to k + slack.
template <typename Key, typename Count>
__device__ Cut<Key> bisect(Block& b, Key lo, Key hi, int k, int slack, Count count) {
  int above = 0;  // keys above hi
  while (lo < hi) {
    const Key mid = hi - (hi - lo) / 2;  // above lo
    const int found = b.sum(count(mid));
    if (found >= k && found - k <= slack) return {mid, INT_MAX};
    if (found >= k) {
      lo = mid;
    } else {
      hi = mid - 1;
      above = found;
    }
  }
  return {lo, k - above};
}

// Calls emit(j, p) for the positions j in [0, n) that pass the cut, p = 0, 1, … in their order,
// as long as p < limit. Returns how many pass. Each warp takes one segment and reads it twice:
// to count, then to place. at(j) is the key at j. Without kTied all ties pass, in fewer operations.
template <bool kTied, typename Key, typename At, typename Emit>
__device__ int emit_cut(Block& b, At at, int n, Cut<Key> cut, int limit, Emit emit) {
  constexpr int kUnroll = 4, kStep = kUnroll * kWarpSize;
  const int stretch = b.warps * kStep;
  const int64_t segment = static_cast<int64_t>((n - 1) / stretch + 1) * kStep;
  const int64_t start = b.warp * segment;
  const int begin = static_cast<int>(start < n ? start : n);
  const int end = static_cast<int>(start + segment < n ? start + segment : n);
  const int steps_end = begin + (end - begin) / kStep * kStep;  // of whole steps

  int above = 0, equal = 0;
  const auto count = [&](Key key) {
    if (kTied) {
      above += key > cut.kth ? 1 : 0;
      equal += key == cut.kth ? 1 : 0;
    } else {
      above += key >= cut.kth ? 1 : 0;
    }
  };
#pragma unroll 1
  for (int base = begin + b.lane; base < steps_end; base += kStep) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) count(at(base + i * kWarpSize));
  }
#pragma unroll 1
  for (int j = steps_end + b.lane; j < end; j += kWarpSize) count(at(j));
  above = __reduce_add_sync(kAllLanes, above);
  equal = kTied ? __reduce_add_sync(kAllLanes, equal) : 0;
  const uint64_t* words =
      b.exchange(static_cast<uint64_t>(above) << 32 | static_cast<uint32_t>(equal));
  const uint64_t word = b.lane < b.warps ? words[b.lane] : 0;
  const int high = static_cast<int>(word >> 32), low = static_cast<int>(word & 0xffffffffu);
  int before_above = __reduce_add_sync(kAllLanes, b.lane < b.warp ? high : 0);
  int before_equal = __reduce_add_sync(kAllLanes, b.lane < b.warp ? low : 0);
  const int all_above = __reduce_add_sync(kAllLanes, high);
  const int all_equal = __reduce_add_sync(kAllLanes, low);
  const int total = all_above + (all_equal < cut.ties ? all_equal : cut.ties);
  if (above + equal == 0) return total;

  const unsigned earlier = (1u << b.lane) - 1;
  const auto place = [&](int j, Key key, bool valid) {  // 32 neighbours
    const bool is_above = valid && (kTied ? key > cut.kth : key >= cut.kth);
    const unsigned above_lanes = __ballot_sync(kAllLanes, is_above);
    int p = before_above + __popc(above_lanes & earlier);
    bool passes = is_above;
    if (kTied) {
      const bool is_equal = valid && key == cut.kth;
      const unsigned equal_lanes = __ballot_sync(kAllLanes, is_equal);
      const int tie = before_equal + __popc(equal_lanes & earlier);
      p += tie < cut.ties ? tie : cut.ties;
      passes = is_above || (is_equal && tie < cut.ties);
      before_equal += __popc(equal_lanes);
    }
    if (passes && p < limit) emit(j, p);
    before_above += __popc(above_lanes);
  };
#pragma unroll 1
  for (int base = begin + b.lane; base < steps_end + b.lane; base += kStep) {
    Key keys[kUnroll], top = 0;
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      keys[i] = at(base + i * kWarpSize);
      top = keys[i] > top ? keys[i] : top;
    }
    if (!__any_sync(kAllLanes, top >= cut.kth)) continue;
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) place(base + i * kWarpSize, keys[i], true);
  }
#pragma unroll 1
  for (int base = steps_end; base < end; base += kWarpSize) {
    const int j = base + b.lane;
    place(j, j < end ? at(j) : Key(0), j < end);
  }
  return total;
}

// Shared memory for the keys that survive the first sweep.
template <typename Key>
struct Survivors {
  Key* keys;
  int* positions;
  int capacity;
};

// What a block knows of its keys after one sweep: this thread's largest, and the block's range.
template <typename Key>
struct KeyRange {
  Key mine, low, high;
};

// Calls emit(j, p) for the k largest of n keys, 1 <= k <= n. No barrier at the end.
template <typename Key, typename At, typename Emit>
__device__ void select_largest(Block& b, At at, int n, int k, KeyRange<Key> range,
                               Survivors<Key> survivors, Emit emit) {
  if (2 * k <= b.threads && n >= 8 * b.threads) {
    const Key mine = range.mine;
    Cut<Key> bound =
        bisect(b, b.min(mine), range.high, k, k / 8, [mine](Key x) { return mine >= x ? 1 : 0; });
    bound.ties = INT_MAX;
    const int count = emit_cut<false>(b, at, n, bound, survivors.capacity, [&](int j, int p) {
      survivors.keys[p] = at(j);
      survivors.positions[p] = j;
    });
    __syncthreads();
    if (count <= survivors.capacity) {
      const Cut<Key> cut = bisect(b, bound.kth, range.high, k, 0, [&](Key x) {
        int found = 0;
#pragma unroll 1
        for (int i = b.thread; i < count; i += b.threads) found += survivors.keys[i] >= x ? 1 : 0;
        return found;
      });
      emit_cut<true>(
          b, [&](int i) { return survivors.keys[i]; }, count, cut, k,
          [&](int i, int p) { emit(survivors.positions[i], p); });
      return;
    }
  }
  if (k == n) {
    emit_cut<false>(b, at, n, Cut<Key>{range.low, INT_MAX}, k, emit);
    return;
  }
  const Cut<Key> cut = bisect(b, range.low, range.high, k, 0, [&](Key x) {
    int found = 0;
#pragma unroll 8
    for (int j = b.thread; j < n; j += b.threads) found += at(j) >= x ? 1 : 0;
    return found;
  });
  emit_cut<true>(b, at, n, cut, k, emit);
}

}  // namespace kernomics
