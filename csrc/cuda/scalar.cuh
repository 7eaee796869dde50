// Stored numbers widened to what they are computed in, and rounded back.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace kernomics {

template <typename T>
__device__ __forceinline__ float widen(T x) {
  return static_cast<float>(x);
}
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ uint8_t widen(uint8_t x) { return x; }  // a flag

// What values of type T are computed in.
template <typename T>
using Sum = decltype(widen(T()));

__device__ __forceinline__ void narrow(float x, float* out) { *out = x; }
__device__ __forceinline__ void narrow(double x, double* out) { *out = x; }
__device__ __forceinline__ void narrow(float x, __half* out) { *out = __float2half(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16* out) { *out = __float2bfloat16(x); }

}  // namespace kernomics
