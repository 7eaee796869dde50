// Sixteen lanes of a type, in four vectors of four: whatever the instruction set, so many additions
// at a time hide their latency. Larger vectors than the instruction set's, arrays of vectors, and
// vectors of which single lanes are taken are kept in memory by the compiler, ten times slower.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.h"

namespace kernomics {

constexpr int64_t kLanes = 16;

template <typename T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(4 * sizeof(T))));
  Vector a, b, c, d;

  KN_INLINE static Lanes of(T x) {
    const Vector v = {x, x, x, x};
    return {v, v, v, v};
  }
  KN_INLINE static Lanes from(const T* x) {
    Lanes v;
    std::memcpy(&v.a, x, sizeof a);
    std::memcpy(&v.b, x + 4, sizeof a);
    std::memcpy(&v.c, x + 8, sizeof a);
    std::memcpy(&v.d, x + 12, sizeof a);
    return v;
  }
  KN_INLINE void store(T* x) const {
    std::memcpy(x, &a, sizeof a);
    std::memcpy(x + 4, &b, sizeof a);
    std::memcpy(x + 8, &c, sizeof a);
    std::memcpy(x + 12, &d, sizeof a);
  }

  // In place: of lanes that a function returns the compiler keeps a copy in memory.
  KN_INLINE void add(const Lanes& v) { a += v.a, b += v.b, c += v.c, d += v.d; }
  KN_INLINE void multiply(const Lanes& v) { a *= v.a, b *= v.b, c *= v.c, d *= v.d; }
  KN_INLINE void raise_to(const Lanes& v) {
    a = a > v.a ? a : v.a;
    b = b > v.b ? b : v.b;
    c = c > v.c ? c : v.c;
    d = d > v.d ? d : v.d;
  }
};

// As many lanes as 64 bytes hold: a cache line, at any address.
template <typename T>
constexpr int64_t kLine = 64 / sizeof(T);
template <typename T>
struct LineOf;
template <>
struct LineOf<float> {
  typedef float type __attribute__((vector_size(64), aligned(4), may_alias));
};
template <>
struct LineOf<double> {
  typedef double type __attribute__((vector_size(64), aligned(8), may_alias));
};
template <typename T>
using Line = typename LineOf<T>::type;

// The sum of the lanes, in double and in a fixed order.
template <typename T>
KN_INLINE double total(const T* lanes) {
  double sum = 0;
  for (int64_t l = 0; l < kLanes; ++l) sum += static_cast<double>(lanes[l]);
  return sum;
}

}  // namespace kernomics
