// Sixteen lanes of a type, kept in vector registers: one AVX-512 register of floats, two of AVX,
// four of SSE. Arrays of lanes in a loop would be kept in memory by the compiler.
#pragma once

#include <cstdint>
#include <cstring>

namespace kernomics {

constexpr int64_t kLanes = 16;

template <typename T>
struct LanesOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
template <typename T>
using Lanes = typename LanesOf<T>::type;

template <typename T, typename V>
inline __attribute__((always_inline)) void load(const T* from, V& to) {
  std::memcpy(&to, from, sizeof to);
}

// The sum of the lanes, in double and in a fixed order.
template <typename V>
inline __attribute__((always_inline)) double total(const V& lanes) {
  double sum = 0;
  for (int64_t l = 0; l < kLanes; ++l) sum += static_cast<double>(lanes[l]);
  return sum;
}

}  // namespace kernomics
