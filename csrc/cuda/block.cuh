// What the kernels of one thread block share: reductions and scans in a fixed order, so that the
// same input gives the same bits on every run, and packs of four for 16-byte accesses.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/math.h"

namespace kernomics {

constexpr int kWarpSize = 32;
constexpr int kMaxWarps = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The _rn forms keep the compiler from contracting to fma; the float ones are in common/math.h.
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }

__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
  return dynamic_shared_memory;
}

// Shared words that a Block needs for its reductions.
struct BlockSlots {
  uint64_t word[2][kMaxWarps];
};

// One thread's view of its block. The size must be a multiple of 32, and all threads must call
// together. Each reduction has one barrier: two sets of slots are used in turn.
class Block {
 public:
  __device__ explicit Block(BlockSlots& slots)
      : thread(static_cast<int>(threadIdx.x)),
        threads(static_cast<int>(blockDim.x)),
        lane(thread % kWarpSize),
        warp(thread / kWarpSize),
        warps(threads / kWarpSize),
        slots_(slots) {}

  // op is associative and commutative; every thread gets the result.
  template <typename T, typename Op>
  __device__ T reduce(T value, T identity, Op op) {
    uint64_t* slot = next_slots();
    value = warp_reduce(value, op);
    if (lane == 0) slot[warp] = to_word(value);
    __syncthreads();
    value = lane < warps ? from_word<T>(slot[lane]) : identity;
    return warp_reduce(value, op);
  }

  __device__ int sum(int value) {
    uint64_t* slot = next_slots();
    value = __reduce_add_sync(kAllLanes, value);
    if (lane == 0) slot[warp] = to_word(value);
    __syncthreads();
    return __reduce_add_sync(kAllLanes, lane < warps ? from_word<int>(slot[lane]) : 0);
  }

  __device__ double sum(double value) {
    return reduce(value, 0.0, [](double a, double b) { return a + b; });
  }

  template <typename T>
  __device__ T max(T value) {
    return reduce(value, value, [](T a, T b) { return a > b ? a : b; });
  }

  template <typename T>
  __device__ T min(T value) {
    return reduce(value, value, [](T a, T b) { return a < b ? a : b; });
  }

  // Each warp gives a word and gets a barrier; earlier warps' words are then at the pointer.
  __device__ const uint64_t* exchange(uint64_t word) {
    uint64_t* slot = next_slots();
    if (lane == 0) slot[warp] = word;
    __syncthreads();
    return slot;
  }

  const int thread, threads, lane, warp, warps;

 private:
  __device__ uint64_t* next_slots() {
    parity_ ^= 1;
    return slots_.word[parity_];
  }

  template <typename T, typename Op>
  static __device__ T warp_reduce(T value, Op op) {
    for (int step = kWarpSize / 2; step > 0; step /= 2)
      value = op(value, __shfl_xor_sync(kAllLanes, value, step));
    return value;
  }

  template <typename T>
  static __device__ uint64_t to_word(T value) {
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return word;
  }

  template <typename T>
  static __device__ T from_word(uint64_t word) {
    T value;
    memcpy(&value, &word, sizeof value);
    return value;
  }

  BlockSlots& slots_;
  int parity_ = 0;
};

// Four neighbours, moved in 16-byte pieces where addresses allow.
template <typename T>
struct alignas(16) Pack {
  T at[4];
};

// Fills out[0, n), 16 bytes at a time between an unaligned head and tail.
template <typename T>
__device__ void fill_row(const Block& b, T* out, int64_t n, T value) {
  constexpr int64_t per = 16 / sizeof(T);
  const int64_t offset = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % 16 / sizeof(T));
  const int64_t gap = (per - offset) % per, head = gap < n ? gap : n;
  const int64_t body = (n - head) / per;
  struct alignas(16) Vector {
    T at[per];
  };
  Vector vector;
  for (T& x : vector.at) x = value;
  for (int64_t i = b.thread; i < body; i += b.threads)
    reinterpret_cast<Vector*>(out + head)[i] = vector;
  if (b.thread < head) out[b.thread] = value;
  const int64_t rest = head + body * per;
  if (b.thread < n - rest) out[rest + b.thread] = value;
}

}  // namespace kernomics
