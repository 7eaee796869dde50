// Scores as unsigned keys of the same order, and genes sorted by score.
#pragma once

#include <cstdint>

#include "block.cuh"

namespace kernomics {

// key(x) rises with x, −0 and +0 share one key, and NaN lies above +inf or below −inf: selection
// among keys is total, whatever the data.
template <typename T>
struct KeyOf;

template <>
struct KeyOf<float> {
  using Key = uint32_t;
  static constexpr Key kForced = 0xff800000u, kForbidden = 0x007fffffu;  // of +inf and −inf

  static __device__ __forceinline__ Key key(float x) {
    const uint32_t u = __float_as_uint(add(x, 0.0f));  // −0 becomes +0
    return u ^ (static_cast<uint32_t>(static_cast<int32_t>(u) >> 31) | 0x80000000u);
  }
  static __device__ __forceinline__ float value(Key key) {
    return __uint_as_float((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
  }
};

template <>
struct KeyOf<double> {
  using Key = uint64_t;
  static constexpr Key kForced = 0xfff0000000000000u, kForbidden = 0x000fffffffffffffu;

  static __device__ __forceinline__ Key key(double x) {
    const uint64_t u = static_cast<uint64_t>(__double_as_longlong(add(x, 0.0)));
    return u ^ (static_cast<uint64_t>(static_cast<int64_t>(u) >> 63) | 0x8000000000000000u);
  }
  static __device__ __forceinline__ double value(Key key) {
    return __longlong_as_double(
        static_cast<int64_t>((key & 0x8000000000000000u) != 0 ? key ^ 0x8000000000000000u : ~key));
  }
};

// A gene in the order of the sorts: score descending, ties to the smaller index.
template <typename T>
struct Entry {
  typename KeyOf<T>::Key key;
  int index;

  __device__ bool before(const Entry& other) const {
    return key > other.key || (key == other.key && index < other.index);
  }
  __device__ double value() const { return static_cast<double>(KeyOf<T>::value(key)); }
};

template <typename E>
__device__ __forceinline__ void order_pair(E* entries, int n, int i, int partner) {
  if (partner >= n) return;  // missing entries would be last, and never move
  const E a = entries[i], b = entries[partner];
  if (b.before(a)) {
    entries[i] = b;
    entries[partner] = a;
  }
}

// Bitonic sort in which every comparison puts the earlier entry first, so any n will do. Entries
// may lie in shared or global memory. Ends with a barrier.
template <typename E>
__device__ void sort_entries(const Block& b, E* entries, int n) {
  int bits = 0;  // of n rounded up to a power of two
  while ((int64_t{1} << bits) < n) ++bits;
  const int pairs = bits > 0 ? 1 << (bits - 1) : 0;
  __syncthreads();
  for (int merge = 0; merge < bits; ++merge) {
    const int half = 1 << merge;
#pragma unroll 1
    for (int p = b.thread; p < pairs; p += b.threads) {
      const int base = p >> merge << (merge + 1), i = p & (half - 1);
      order_pair(entries, n, base + i, base + 2 * half - 1 - i);
    }
    __syncthreads();
    for (int stride_bits = merge - 1; stride_bits >= 0; --stride_bits) {
      const int stride = 1 << stride_bits;
#pragma unroll 1
      for (int p = b.thread; p < pairs; p += b.threads) {
        const int i = (p >> stride_bits << (stride_bits + 1)) + (p & (stride - 1));
        order_pair(entries, n, i, i + stride);
      }
      __syncthreads();
    }
  }
}

// First and last member of entry i's tie group among n sorted entries.
template <typename T>
__device__ int tie_first(const Entry<T>* entries, int i) {
  int lo = 0, hi = i;
  while (lo < hi) {
    const int mid = (lo + hi) / 2;
    if (entries[mid].key > entries[i].key)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

template <typename T>
__device__ int tie_last(const Entry<T>* entries, int n, int i) {
  int lo = i, hi = n - 1;
  while (lo < hi) {
    const int mid = (lo + hi + 1) / 2;
    if (entries[mid].key < entries[i].key)
      hi = mid - 1;
    else
      lo = mid;
  }
  return lo;
}

}  // namespace kernomics
