// What masked_linear's forward and backward share on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "isa.h"
#include "kernels.h"
#include "scratch.h"

namespace kernomics {

constexpr int64_t kSerialEntries = int64_t(1) << 14;  // too few to wake other threads for

enum Flag : uint8_t { kChosen = 1, kReached = 2 };

KN_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
KN_INLINE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

// out += a·row, n long; element by element, so vectorising does not change a bit.
template <typename T>
KN_INLINE void axpy(T a, const T* row, int64_t n, T* __restrict__ out) {
  for (int64_t h = 0; h < n; ++h) out[h] = fused(a, row[h], out[h]);
}

template <typename T>
Scratch<uint8_t> flag_genes(const LinearLayer<T>& a, bool reach_all) {
  Scratch<uint8_t> flags(a.x.genes, reach_all ? kReached : 0);
  for (int64_t i = 0; i < a.k; ++i) flags[a.chosen[i]] |= kChosen;
  for (int64_t i = 0; i < a.reach && a.reached[i] >= 0; ++i) flags[a.reached[i]] |= kReached;
  return flags;
}

template <typename T>
int team_size(const LinearLayer<T>& a, int threads, int64_t tasks) {
  const int64_t entries = a.x.indptr != nullptr ? a.x.stored : a.x.rows * a.x.genes;
  return entries < kSerialEntries ? 1 : static_cast<int>(std::min<int64_t>(threads, tasks));
}

}  // namespace kernomics
