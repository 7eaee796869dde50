// The k largest of a row, ties to the smaller index, and the largest m of it in order.
//
// A bound first: split the row into groups; the k-th largest of the groups' maxima is at most the
// k-th largest value, and with at least 4k groups it is close to it. One sweep then keeps the few
// values at or above the bound, and only those are selected among. Reads the row twice.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "clones.h"

namespace kernomics {

constexpr int64_t kLanes = 16;

// Maxima of ceil(n / (16·depth))·16 strided groups; missing values count as −inf.
void group_maxima(const float* y, int64_t n, int64_t depth, float* maxima);
void group_maxima(const double* y, int64_t n, int64_t depth, double* maxima);

// Positions with y >= bound, ascending; returns how many.
int64_t collect_at_least(const float* y, int64_t n, float bound, int64_t* positions);
int64_t collect_at_least(const double* y, int64_t n, double bound, int64_t* positions);

template <typename T>
struct TopkScratch {
  std::vector<T> maxima, values;
  std::vector<int64_t> candidates;
};

// A lower bound of the k-th largest value of y, attained by at least k values.
template <typename T>
T topk_bound(const T* y, int64_t n, int64_t k, TopkScratch<T>& scratch) {
  int64_t depth = 1;
  while (depth < 64 && n / (2 * depth) >= 4 * k) depth *= 2;
  if (depth == 1) {
    scratch.values.assign(y, y + n);
    std::nth_element(scratch.values.begin(), scratch.values.begin() + (k - 1), scratch.values.end(),
                     std::greater<T>());
    return scratch.values[k - 1];
  }
  const int64_t groups = (n + kLanes * depth - 1) / (kLanes * depth) * kLanes;
  scratch.maxima.resize(groups);
  group_maxima(y, n, depth, scratch.maxima.data());
  std::nth_element(scratch.maxima.begin(), scratch.maxima.begin() + (k - 1), scratch.maxima.end(),
                   std::greater<T>());
  return scratch.maxima[k - 1];
}

// Writes the indices of the k largest of y, ascending. 1 <= k <= n, no NaN.
template <typename T>
void select_topk(const T* y, int64_t n, int64_t k, int64_t* indices, TopkScratch<T>& scratch) {
  const T bound = topk_bound(y, n, k, scratch);
  scratch.candidates.resize(n + kLanes);
  int64_t* candidates = scratch.candidates.data();
  const int64_t count = collect_at_least(y, n, bound, candidates);
  scratch.values.resize(count);
  for (int64_t i = 0; i < count; ++i) scratch.values[i] = y[candidates[i]];
  std::nth_element(scratch.values.begin(), scratch.values.begin() + (k - 1),
                   scratch.values.begin() + count, std::greater<T>());
  const T kth = scratch.values[k - 1];
  int64_t above = 0;
  for (int64_t i = 0; i < k - 1; ++i) above += scratch.values[i] > kth;
  int64_t ties = k - above;  // how many of those equal to the k-th value still fit
  int64_t written = 0;
  for (int64_t i = 0; i < count && written < k; ++i) {
    const T value = y[candidates[i]];
    if (value > kth || (value == kth && ties-- > 0)) indices[written++] = candidates[i];
  }
}

}  // namespace kernomics
