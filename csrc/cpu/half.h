// bfloat16 and IEEE half as stored, widened to float32 and rounded back (to nearest, ties to even).
// Integer operations and selections, so that loops over them are vectorised for every instruction
// set. No float32 subnormal is formed, so a processor that flushes them changes nothing.
#pragma once

#include <cstdint>

#include "../common/fields.h"

namespace kernomics {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <>
inline constexpr int kKindOf<BFloat16> = kBFloat16;
template <>
inline constexpr int kKindOf<Half> = kFloat16;

// What values of type T are summed in.
template <typename T>
struct WideOf {
  typedef float type;
};
template <>
struct WideOf<double> {
  typedef double type;
};
template <typename T>
using Wide = typename WideOf<T>::type;

#define KN_HALF_INLINE inline __attribute__((always_inline))

KN_HALF_INLINE float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }
KN_HALF_INLINE uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

KN_HALF_INLINE float widen(float x) { return x; }
KN_HALF_INLINE double widen(double x) { return x; }
KN_HALF_INLINE float widen(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }
KN_HALF_INLINE float widen(Half x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t normal = (magnitude << 13) + (112u << 23);  // exponent bias 15 → 127
  const uint32_t infinite = (magnitude << 13) | 0x7f800000u;
  // Below 2⁻¹⁴ a half is a multiple of 2⁻²⁴.
  const uint32_t small = bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  uint32_t bits = magnitude < 0x0400u ? small : normal;
  bits = magnitude >= 0x7c00u ? infinite : bits;
  return float_of(bits | (static_cast<uint32_t>(x.bits & 0x8000u) << 16));
}

KN_HALF_INLINE void narrow(float x, float& to) { to = x; }
KN_HALF_INLINE void narrow(double x, double& to) { to = x; }
KN_HALF_INLINE void narrow(float x, BFloat16& to) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = static_cast<uint16_t>(nan ? 0x7fc0u : rounded);
}
KN_HALF_INLINE void narrow(float x, Half& to) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
  const uint32_t normal =
      (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;  // carries to infinity
  // ½ + |x| has 2⁻²⁴ as its last digit: the addition rounds, and its bits count the multiples.
  const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  uint32_t half = magnitude < (113u << 23) ? small : normal;
  half = magnitude >= 0x47800000u ? 0x7c00u : half;  // 65,536 and above
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  to.bits = static_cast<uint16_t>(half | ((bits >> 16) & 0x8000u));
}

#undef KN_HALF_INLINE

}  // namespace kernomics
