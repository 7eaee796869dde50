// Marks functions that the CPU kernels and the CUDA kernels share, so that each has one definition.
#pragma once

#ifdef __CUDACC__
#define KN_HD __host__ __device__ __forceinline__
#else
#define KN_HD inline __attribute__((always_inline))
#endif
