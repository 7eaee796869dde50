// Float32 log, exp and Gumbel noise that vectorise on CPUs and give the same bits everywhere.
//
// CPU and CUDA must choose the same genes, so `gumbel` uses only integer operations, +, × and fma
// in one fixed order: the compiler may not contract (-ffp-contract=off on the CPU, the _rn
// intrinsics on CUDA), and fma is the correctly rounded one everywhere (on an x86-64 without FMA
// instructions the C library's, slow but equal). The polynomials are minimax fits (Remez) over the
// reduced range.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace kernomics {

KN_HD float add(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

KN_HD float mul(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

KN_HD float fma(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

KN_HD uint32_t float_bits(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  return u;
#endif
}

KN_HD float bits_float(uint32_t u) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(u);
#else
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
#endif
}

// log(1 + f) + e·ln 2 for f in [√½ − 1, √2 − 1], e a small integer given as a float.
// log(1 + f) = f − f²/2 + f³·P(f), P of degree 7, relative error 6e-9 before rounding. ln 2 is
// split so that e times its first part is exact.
KN_HD float log_reduced(float f, float e) {
  const float z = mul(f, f);
  float p = -0x1.38b590p-4f;
  p = fma(p, f, 0x1.055b6cp-3f);
  p = fma(p, f, -0x1.0d8540p-3f);
  p = fma(p, f, 0x1.22da1cp-3f);
  p = fma(p, f, -0x1.547244p-3f);
  p = fma(p, f, 0x1.99a008p-3f);
  p = fma(p, f, -0x1.000226p-2f);
  p = fma(p, f, 0x1.555554p-2f);
  p = fma(p, f, -0.5f);
  const float tail = fma(z, p, mul(e, -2.12194440e-4f));
  return fma(e, 0.693359375f, add(f, tail));
}

// Writes x = m·2^e with m in [√½, √2) as f = m − 1 and e. x is positive, finite and normal.
KN_HD void split_float(float x, float* f, float* e) {
  const uint32_t shifted = float_bits(x) + (0x3f800000u - 0x3f3504f3u);
  *e = static_cast<float>(static_cast<int32_t>(shifted >> 23) - 127);
  *f = add(bits_float((shifted & 0x007fffffu) + 0x3f3504f3u), -1.0f);
}

// Gumbel noise g = −log E, E = −log(u), from a 32-bit word r. With u = (r + ½)/2³² close to 1,
// float32 would round u to 1 and E to 0, so for r < 2³¹ E = −log1p(−(r + ½)/2³²) and otherwise
// E = −log((~r + ½)/2³²): the fine end of the uniform lies where genes win. Finite for every r,
// from −3.13 to 22.87; within 2 ulp or 2.4e-7 of the exact value.
KN_HD float gumbel(uint32_t r) {
  const bool upper = r < 0x80000000u;  // the winning side
  const uint32_t q = upper ? r : ~r;   // below 2³¹
  const float x = fma(static_cast<float>(static_cast<int32_t>(q)), 0x1p-32f, 0x1p-33f);
  float f, e;
  split_float(x, &f, &e);  // log(x), the lower side
  // log1p(−x): already reduced for x below 1 − √½; above it 1 − x = (2 − 2x)/2, and 1 − 2x is
  // exact.
  const bool small = x < 0.292893219f;
  const float f_up = small ? -x : fma(x, -2.0f, 1.0f);
  const float e_up = small ? 0.0f : -1.0f;
  const float E = -log_reduced(upper ? f_up : f, upper ? e_up : e);
  split_float(E, &f, &e);
  return -log_reduced(f, e);
}

// exp(x) for x <= 0, relative error below 2e-7; 0 below −87, just above the smallest normal
// float32.
KN_HD float exp_nonpositive(float x) {
  const float bounded = x > -87.0f ? x : -87.0f;                 // also catches −inf
  const float shifted = fma(bounded, 1.44269504f, 12582912.0f);  // 1.5·2²³ rounds to an integer
  const float n = add(shifted, -12582912.0f);
  const float r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, bounded));
  float p = 0.001395047961f;
  p = fma(p, r, 0.008368882227f);
  p = fma(p, r, 0.04166620597f);
  p = fma(p, r, 0.166665189f);
  p = fma(p, r, 0.5f);
  const float y = add(fma(mul(p, r), r, r), 1.0f);
  const int32_t exponent = static_cast<int32_t>(float_bits(shifted)) - 0x4b400000;
  const float scaled = bits_float(float_bits(y) + (static_cast<uint32_t>(exponent) << 23));
  return x > -87.0f ? scaled : 0.0f;
}

KN_HD double exp_nonpositive(double x) { return exp(x); }

}  // namespace kernomics
