// As much of CUDA's half precision as the kernels use, for the emulator.
#pragma once

#include "cuda_runtime.h"

struct __half {
  _Float16 value;  // the compiler's conversions, not those of csrc/cpu/half.h
  operator float() const { return static_cast<float>(value); }
};

inline __half __float2half(float x) { return {static_cast<_Float16>(x)}; }
