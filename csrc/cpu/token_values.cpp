// The row is scattered into a table of zeros that stays in the L2 cache, the drawn genes are looked
// up there, and log1p is taken of these alone.
#include "token_values.h"

#include <limits>

#include "../common/math.h"
#include "isa.h"

namespace kernomics {
namespace {

constexpr int64_t kSumLanes = 8;

template <typename T>
KN_INLINE double sum_in_lanes(const T* x, int64_t n) {
  double lanes[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes)
    for (int64_t l = 0; l < kSumLanes; ++l) lanes[l] += static_cast<double>(x[i + l]);
  for (int64_t l = 0; i < n; ++i, ++l) lanes[l] += static_cast<double>(x[i]);
  double sum = 0;
  for (int64_t l = 0; l < kSumLanes; ++l) sum += lanes[l];
  return sum;
}

// What the row's counts are multiplied by: target / library, nothing for a library of 0.
struct Scale {
  double target, library;
};

template <typename T, typename C>
Scale scale_of(const SampleTokens<T>& a, int64_t b, const TokenRow<T, C>& row) {
  if (a.target_sum == 0) return {1, 1};
  return {a.target_sum, a.library != nullptr ? a.library[b] : sum_of(row.values, row.stored)};
}

template <typename T>
KN_INLINE T largest_of(const T* x, int64_t n) {
  T largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

template <typename T>
KN_INLINE void look_up(const T* counts, const int32_t* genes, int64_t n, T* __restrict__ out) {
  for (int64_t i = 0; i < n; ++i) out[i] = counts[genes[i]];
}

template <typename T>
KN_INLINE void take_log1p(int64_t n, T scale, T* __restrict__ x) {
  for (int64_t i = 0; i < n; ++i) x[i] = log1p_nonnegative(x[i] * scale);
}

// The counts of genes that ascend as the row's columns do.
template <typename T, typename C>
void walk_along(const TokenRow<T, C>& row, const int32_t* genes, int64_t n, T* out) {
  int64_t i = 0;
  for (int64_t p = 0; p < n; ++p) {
    while (i < row.stored && row.columns[i] < genes[p]) ++i;
    out[p] = i < row.stored && row.columns[i] == genes[p] ? row.values[i] : T(0);
  }
}

}  // namespace

double sum_of(const float* x, int64_t n) { return for_isa<sum_in_lanes<float>>(x, n); }
double sum_of(const double* x, int64_t n) { return for_isa<sum_in_lanes<double>>(x, n); }

template <typename T, typename C>
void fill_values(const SampleTokens<T>& a, int64_t b, const TokenRow<T, C>& row,
                 const int32_t* genes, int64_t n, T* out, T* counts) {
  if (a.genes > kTableGenes) {
    walk_along(row, genes, n, out);
  } else {
    for (int64_t i = 0; i < row.stored; ++i) counts[row.columns[i]] = row.values[i];
    for_isa<look_up<T>>(counts, genes, n, out);
    for (int64_t i = 0; i < row.stored; ++i) counts[row.columns[i]] = T(0);
  }
  if (!a.log1p) return;
  const Scale by = scale_of(a, b, row);
  const T scale = by.library > 0 ? static_cast<T>(by.target / by.library) : T(0);
  constexpr T kLeast = std::numeric_limits<T>::min(), kMost = std::numeric_limits<T>::max() / 8;
  if (by.library == 0 ||
      (scale >= kLeast && for_isa<largest_of<T>>(row.values, row.stored) < kMost / scale)) {
    for_isa<take_log1p<T>>(n, scale, out);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = log1p_scaled(out[i], scale, by.target, by.library);
  }
}

#define KN_INSTANTIATE(T, C)                                                              \
  template void fill_values<T, C>(const SampleTokens<T>&, int64_t, const TokenRow<T, C>&, \
                                  const int32_t*, int64_t, T*, T*);

KN_INSTANTIATE(float, int32_t)
KN_INSTANTIATE(float, int64_t)
KN_INSTANTIATE(double, int32_t)
KN_INSTANTIATE(double, int64_t)

}  // namespace kernomics
