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

// A standard exponential number E from a 32-bit word r. With u = (r + ½)/2³², E = −log(1 − u). Near
// u = 1 float32 would round 1 − u, so for r < 2³¹ E = −log1p(−(r + ½)/2³²) and otherwise
// E = −log((~r + ½)/2³²): the fine end of the uniform lies at small E, where genes win. From
// 1.16e-10 to 22.87, rising with r.
KN_HD float exponential(uint32_t r) {
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
  return -log_reduced(upper ? f_up : f, upper ? e_up : e);
}

// Gumbel noise g = −log E, finite for every r, from −3.13 to 22.87; within 2 ulp or 2.4e-7 of the
// exact value.
KN_HD float gumbel_of_exponential(float exponential) {
  float f, e;
  split_float(exponential, &f, &e);
  return -log_reduced(f, e);
}
KN_HD float gumbel(uint32_t r) { return gumbel_of_exponential(exponential(r)); }

// log(1 + x) for 0 <= x < 2¹²⁶, within 2 ulp; NaN stays NaN. With 1 + x = m·2^e, m − 1 is
// x·2^−e + (2^−e − 1), rounded once: what 1 + x loses of a small x never enters.
KN_HD float log1p_nonnegative(float x) {
  float f, e;
  const float sum = add(x, 1.0f);
  split_float(sum, &f, &e);
  const uint32_t exponent = (float_bits(sum) + (0x3f800000u - 0x3f3504f3u)) & 0x7f800000u;
  const float scale = bits_float(0x7f000000u - exponent);  // 2^−e
  return log_reduced(fma(x, scale, add(scale, -1.0f)), e);
}

KN_HD double log1p_nonnegative(double x) { return log1p(x); }

// e^r − 1 and n, where x = r + n·ln 2 with |r| ≤ ½ ln 2, for |x| below 2²¹; relative error below
// 2e-7. NaN gives NaN.
KN_HD float expm1_reduced(float x, int32_t* n) {
  const float shifted = fma(x, 1.44269504f, 12582912.0f);  // 1.5·2²³ rounds to an integer
  const float whole = add(shifted, -12582912.0f);
  const float r = fma(whole, 2.12194440e-4f, fma(whole, -0.693359375f, x));
  float p = 0.001395047961f;
  p = fma(p, r, 0.008368882227f);
  p = fma(p, r, 0.04166620597f);
  p = fma(p, r, 0.166665189f);
  p = fma(p, r, 0.5f);
  *n = static_cast<int32_t>(float_bits(shifted)) - 0x4b400000;
  return fma(mul(p, r), r, r);
}

// 2^n for −126 ≤ n ≤ 127.
KN_HD float power_of_two(int32_t n) { return bits_float(static_cast<uint32_t>(n + 127) << 23); }

// exp(x) for x <= 0, relative error below 2e-7; 0 below −87, just above the smallest normal
// float32.
KN_HD float exp_nonpositive(float x) {
  const float bounded = x > -87.0f ? x : -87.0f;  // also catches −inf
  int32_t n;
  const float y = add(expm1_reduced(bounded, &n), 1.0f);
  const float scaled = bits_float(float_bits(y) + (static_cast<uint32_t>(n) << 23));
  return x > -87.0f ? scaled : 0.0f;
}

KN_HD double exp_nonpositive(double x) { return exp(x); }

// exp(x), relative error below 2e-7; 0 below −86, inf beyond float32, NaN for NaN.
KN_HD float exp_any(float x) {
  float bounded = x < -86.0f ? -86.0f : x;
  bounded = bounded > 89.0f ? 89.0f : bounded;
  int32_t n;
  const float y = add(expm1_reduced(bounded, &n), 1.0f);
  const float scaled = mul(mul(y, power_of_two(n - 1)), 2.0f);  // n reaches 128
  return x < -86.0f ? 0.0f : scaled;
}

KN_HD double exp_any(double x) { return exp(x); }

// exp(x) − 1 for x <= 0, and exp(x) by itself, so that neither loses digits; NaN for NaN.
KN_HD float expm1_nonpositive(float x, float* exponential) {
  const float bounded = x < -87.0f ? -87.0f : x;
  int32_t n;
  const float q = expm1_reduced(bounded, &n);
  const float power = power_of_two(n);
  *exponential = fma(power, q, power);
  return fma(power, q, add(power, -1.0f));
}

KN_HD double expm1_nonpositive(double x, double* exponential) {
  *exponential = exp(x);
  return expm1(x);
}

// log(1 + x) for x in [0, 1], reduced as in `gumbel`: 1 + x = 2·(1 + (x − 1)/2) above √2.
KN_HD float log1p_unit(float x) {
  const bool small = x < 0.414213562f;
  return log_reduced(small ? x : fma(x, 0.5f, -0.5f), small ? 0.0f : 1.0f);
}

KN_HD double log1p_unit(double x) { return log1p(x); }

// log(x): −inf at 0, NaN below.
KN_HD float log_any(float x) {
  const bool tiny = x < 0x1p-126f;
  float f, e;
  split_float(tiny ? mul(x, 0x1p23f) : x, &f, &e);
  float y = log_reduced(f, tiny ? add(e, -23.0f) : e);
  y = x == 0.0f ? -INFINITY : y;
  y = x == INFINITY ? x : y;
  return x >= 0.0f ? y : NAN;
}

KN_HD double log_any(double x) { return log(x); }

// log(1 + count·target/library) of non-negative numbers, library above 0, where the quotient may
// leave what a double holds.
KN_HD double log1p_of_ratio(double count, double target, double library) {
  if (count == 0 || target == 0) return 0;
  int c, t, l;
  double m = frexp(count, &c);
  m *= frexp(target, &t);
  m /= frexp(library, &l);  // from 1/4 to 2
  const int e = c + t - l;
  return e > 1000 ? log(m) + e * 0.69314718055994530942 : log1p(ldexp(m, e));
}

// The same with `scale`, target/library as a T, in one product where that is exact enough: where
// scale has all its digits and the product is one that log1p_nonnegative takes.
KN_HD float log1p_scaled(float count, float scale, double target, double library) {
  const float x = mul(count, scale);
  if (scale == 0.0f && library == 0) return 0.0f;
  return scale >= 0x1p-126f && x < 0x1p126f
             ? log1p_nonnegative(x)
             : static_cast<float>(log1p_of_ratio(count, target, library));
}
KN_HD double log1p_scaled(double count, double scale, double target, double library) {
  const double x = count * scale;
  if (scale == 0.0 && library == 0) return 0.0;
  return scale >= 0x1p-1022 && x <= 0x1.fffffffffffffp1023 ? log1p_nonnegative(x)
                                                           : log1p_of_ratio(count, target, library);
}

// Whether E/w, for every word's E from 1.16e-10 to 22.87, is a normal float32; 0 draws nothing.
KN_HD bool weight_fits(float w) { return w == 0.0f || (w >= 1e-36f && w <= 1e27f); }

// Usable as a count or a library: not negative, NaN or infinite.
template <typename T>
KN_HD bool sound(T x) {
  return x >= T(0) && x < static_cast<T>(INFINITY);
}

}  // namespace kernomics
