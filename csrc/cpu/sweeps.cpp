#include "sweeps.h"

#include <algorithm>

#include "../common/math.h"
#include "isa.h"
#include "lanes.h"

namespace kernomics {
namespace {

constexpr int64_t kBlock = 1024;

template <typename T>
KN_INLINE void exponentials(const T* y, int64_t n, T top, double tau, T* __restrict__ out) {
  const T scale = static_cast<T>(1.0 / tau);
  for (int64_t j = 0; j < n; ++j) {
    const T x = y[j] - top;
    out[j] = exp_nonpositive((x < T(0) ? x : T(0)) * scale);
  }
}

template <typename T>
KN_INLINE bool finite(const T* x, int64_t n) {
  int odd = 0;
  for (int64_t i = 0; i < n; ++i) odd |= x[i] - x[i] != T(0);  // 0 for finite numbers alone
  return odd == 0;
}

// Σ x_j u_j over a row, or Σ x_j without u, which must be known when compiled.
template <typename T>
KN_INLINE double blocked_sum(const T* x, const T* u, int64_t n) {
  double sum = 0;
  for (int64_t base = 0; base < n; base += kBlock) {
    const int64_t end = std::min(n, base + kBlock);
    Lanes<T> lanes = Lanes<T>::of(0);
    int64_t j = base;
    for (; j + kLanes <= end; j += kLanes) {
      Lanes<T> v = Lanes<T>::from(x + j);
      if (u != nullptr) v.multiply(Lanes<T>::from(u + j));
      lanes.add(v);
    }
    T each[kLanes];
    lanes.store(each);
    for (int64_t l = 0; j < end; ++j, ++l) each[l] += u == nullptr ? x[j] : x[j] * u[j];
    sum += total(each);
  }
  return sum;
}

template <typename T>
KN_INLINE double plain_sum(const T* x, int64_t n) {
  return blocked_sum<T>(x, nullptr, n);
}

template <typename T>
KN_INLINE OutsiderSums sum_outsiders(const T* y, const T* u, int64_t n, T top, double tau,
                                     T* __restrict__ e) {
  const T scale = static_cast<T>(1.0 / tau);
  OutsiderSums sums{0, 0, 0};
  for (int64_t base = 0; base < n; base += kBlock) {  // a block of e stays in cache for its sums
    const int64_t count = std::min(kBlock, n - base);
    const T* row = y + base;
    // The hardware's prefetchers start anew with every page, which is one block.
    for (int64_t j = kBlock; j < std::min(2 * kBlock, n - base); j += kLine<T>) {
      __builtin_prefetch(row + j);
      __builtin_prefetch(u + base + j);
    }
    int32_t at_top = 0;
    for (int64_t j = 0; j < count; ++j) {
      const T x = row[j] - top;
      const T below = exp_nonpositive((x < T(0) ? x : T(0)) * scale);
      e[base + j] = x < T(0) ? below : T(0);
      at_top += x == T(0) ? 1 : 0;
    }
    sums.at_top += at_top;
    sums.e += blocked_sum<T>(e + base, nullptr, count);
    sums.eu += blocked_sum<T>(e + base, u + base, count);
  }
  return sums;
}

template <typename T>
KN_INLINE void multiply(const T* e, const T* u, int64_t n, double slope, double offset,
                        T* __restrict__ out) {
  const T a = static_cast<T>(slope), b = static_cast<T>(offset);
  for (int64_t base = 0; base < n; base += kBlock) {
    for (int64_t j = base + kBlock; j < std::min(base + 2 * kBlock, n); j += kLine<T>)
      __builtin_prefetch(out + j, 1);
    const int64_t end = std::min(n, base + kBlock);
    for (int64_t j = base; j < end; ++j) out[j] = e[j] * (u[j] * a - b);
  }
}

}  // namespace

#define KN_DEFINE_SWEEPS(T)                                                                   \
  bool all_finite(const T* x, int64_t n) { return for_isa<finite<T>>(x, n); }                 \
  void exp_below(const T* y, int64_t n, T top, double tau, T* out) {                          \
    for_isa<exponentials<T>>(y, n, top, tau, out);                                            \
  }                                                                                           \
  double sum(const T* x, int64_t n) { return for_isa<plain_sum<T>>(x, n); }                   \
  double dot(const T* x, const T* u, int64_t n) { return for_isa<blocked_sum<T>>(x, u, n); }  \
  OutsiderSums outsiders(const T* y, const T* u, int64_t n, T top, double tau, T* e) {        \
    return for_isa<sum_outsiders<T>>(y, u, n, top, tau, e);                                   \
  }                                                                                           \
  void affine_times(const T* e, const T* u, int64_t n, double slope, double offset, T* out) { \
    for_isa<multiply<T>>(e, u, n, slope, offset, out);                                        \
  }

KN_DEFINE_SWEEPS(float)
KN_DEFINE_SWEEPS(double)

}  // namespace kernomics
