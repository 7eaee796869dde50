// As much of CUDA's header as the kernels use, for the emulator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>

#include "../emulator.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ thread_local

// ---- types --------------------------------------------------------------------------------------

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

inline int2 make_int2(int x, int y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

// ---- arithmetic ---------------------------------------------------------------------------------

template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}

// The emulator is built without contraction, so these are what they say.
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }

inline uint32_t __float_as_uint(float x) {
  return emulated::from_word<uint32_t>(emulated::to_word(x));
}
inline float __uint_as_float(uint32_t u) { return emulated::from_word<float>(u); }
inline long long __double_as_longlong(double x) {
  return emulated::from_word<long long>(emulated::to_word(x));
}
inline double __longlong_as_double(long long x) {
  return emulated::from_word<double>(emulated::to_word(x));
}
inline unsigned __float2uint_rz(float x) {  // saturates; 0 for NaN
  if (!(x > 0.0f)) return 0;
  return x < 0x1p32f ? static_cast<unsigned>(x) : std::numeric_limits<unsigned>::max();
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
// 1 in each byte that differs.
inline unsigned __vsetne4(unsigned a, unsigned b) {
  unsigned result = 0;
  for (int i = 0; i < 32; i += 8) result |= ((a ^ b) >> i & 0xffu) != 0 ? 1u << i : 0u;
  return result;
}

// ---- memory -------------------------------------------------------------------------------------

template <typename T>
T __ldcs(const T* from) {
  return *from;
}
template <typename T>
void __stcs(T* to, T value) {
  *to = value;
}
template <typename T>
void __stwb(T* to, T value) {
  *to = value;
}

template <typename T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to = before + value;
  return before;
}
template <typename T>
T atomicOr(T* to, T value) {
  const T before = *to;
  *to = before | value;
  return before;
}

// ---- what threads do together -------------------------------------------------------------------

#define EMULATED_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATED_SITE) { emulated::wait_for_block(false, {file, line}); }
inline int __syncthreads_count(int x, EMULATED_SITE) {
  return emulated::wait_for_block(x != 0, {file, line});
}
inline int __syncthreads_or(int x, EMULATED_SITE) {
  return emulated::wait_for_block(x != 0, {file, line}) > 0 ? 1 : 0;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, EMULATED_SITE) {
  return emulated::shuffle(mask, value, from % 32, {file, line});
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned step, EMULATED_SITE) {
  const int from = emulated::lane() - static_cast<int>(step);
  return emulated::shuffle(mask, value, from < 0 ? emulated::lane() : from, {file, line});
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned step, EMULATED_SITE) {
  const int from = emulated::lane() + static_cast<int>(step);
  return emulated::shuffle(mask, value, from > 31 ? emulated::lane() : from, {file, line});
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, EMULATED_SITE) {
  return emulated::shuffle(mask, value, emulated::lane() ^ bits, {file, line});
}

namespace emulated {
template <typename T>
T sum_of(T a, T b) {
  return a + b;
}
template <typename T>
T least_of(T a, T b) {
  return b < a ? b : a;
}
inline unsigned both_of(unsigned a, unsigned b) { return a | b; }
}  // namespace emulated

inline unsigned __ballot_sync(unsigned mask, int x, EMULATED_SITE) {
  const unsigned bit = x != 0 ? 1u << emulated::lane() : 0u;
  return emulated::reduce<unsigned, emulated::both_of>(mask, bit, {file, line});
}
inline int __any_sync(unsigned mask, int x, EMULATED_SITE) {
  return emulated::reduce<unsigned, emulated::both_of>(mask, x != 0 ? 1u : 0u, {file, line}) != 0;
}
template <typename T>
T __reduce_add_sync(unsigned mask, T value, EMULATED_SITE) {
  return emulated::reduce<T, emulated::sum_of<T>>(mask, value, {file, line});
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value, EMULATED_SITE) {
  return emulated::reduce<T, emulated::least_of<T>>(mask, value, {file, line});
}

// ---- the runtime --------------------------------------------------------------------------------

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaError_t { cudaSuccess = 0, cudaErrorLaunchFailure = 719 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};

// What went wrong since the last call, and in words.
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);

namespace emulated {

template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), unsigned blocks, unsigned threads, size_t shared,
            cudaStream_t, const Args&... args) {
  struct Call {
    void (*kernel)(Params...);
    std::tuple<std::remove_cv_t<Params>...> arguments;
  } call{kernel, {static_cast<Params>(args)...}};
  const auto body = [](void* p) {
    const Call& call = *static_cast<const Call*>(p);
    std::apply(call.kernel, call.arguments);
  };
  run(reinterpret_cast<const void*>(kernel), blocks, threads, shared, body, &call);
}

}  // namespace emulated
