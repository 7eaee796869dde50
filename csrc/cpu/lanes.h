// Sixteen lanes of a type, kept in vector registers: one AVX-512 register of floats, two of AVX,
// four of SSE. Arrays of lanes in a loop would be kept in memory by the compiler.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.h"

namespace kernomics {

constexpr int64_t kLanes = 16;

template <typename T>
struct LanesOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
template <typename T>
using Lanes = typename LanesOf<T>::type;

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

template <typename T, typename V>
KN_INLINE void load(const T* from, V& to) {
  std::memcpy(&to, from, sizeof to);
}

// The sum of the lanes, in double and in a fixed order.
template <typename V>
KN_INLINE double total(const V& lanes) {
  double sum = 0;
  for (int64_t l = 0; l < kLanes; ++l) sum += static_cast<double>(lanes[l]);
  return sum;
}

}  // namespace kernomics
