#include "sweeps.h"

#include <algorithm>

#include "../common/math.h"
#include "clones.h"

#define KN_INLINE inline __attribute__((always_inline))

namespace kernomics {
namespace {

constexpr int64_t kLanes = 16, kBlock = 1024;

template <typename T>
KN_INLINE void exp_below_impl(const T* y, int64_t n, T top, double tau, T* __restrict__ out) {
  const T scale = static_cast<T>(1.0 / tau);
  for (int64_t j = 0; j < n; ++j) {
    const T x = y[j] - top;
    out[j] = exp_nonpositive((x < T(0) ? x : T(0)) * scale);
  }
}

// Σ f(j) over a row, f inlined.
template <typename T, typename F>
KN_INLINE double blocked_sum(int64_t n, F f) {
  double total = 0;
  for (int64_t base = 0; base < n; base += kBlock) {
    const int64_t end = std::min(n, base + kBlock);
    T lane[kLanes] = {};
    int64_t j = base;
    for (; j + kLanes <= end; j += kLanes)
      for (int64_t l = 0; l < kLanes; ++l) lane[l] += f(j + l);
    for (int64_t l = 0; j < end; ++j, ++l) lane[l] += f(j);
    double block = 0;
    for (int64_t l = 0; l < kLanes; ++l) block += lane[l];
    total += block;
  }
  return total;
}

template <typename T>
KN_INLINE int64_t count_equal_impl(const T* x, int64_t n, T value) {
  int64_t count = 0;
  for (int64_t j = 0; j < n; ++j) count += x[j] == value ? 1 : 0;
  return count;
}

template <typename T>
KN_INLINE void affine_times_impl(const T* e, const T* u, int64_t n, double slope, double offset,
                                 T* out) {
  const T a = static_cast<T>(slope), b = static_cast<T>(offset);
  for (int64_t j = 0; j < n; ++j) out[j] = e[j] * (u[j] * a - b);
}

}  // namespace

#define KN_DEFINE_SWEEPS(T)                                                                   \
  KN_CLONES void exp_below(const T* y, int64_t n, T top, double tau, T* out) {                \
    exp_below_impl(y, n, top, tau, out);                                                      \
  }                                                                                           \
  KN_CLONES double sum(const T* x, int64_t n) {                                               \
    return blocked_sum<T>(n, [x](int64_t j) KN_LAMBDA { return x[j]; });                      \
  }                                                                                           \
  KN_CLONES double dot(const T* x, const T* u, int64_t n) {                                   \
    return blocked_sum<T>(n, [x, u](int64_t j) KN_LAMBDA { return x[j] * u[j]; });            \
  }                                                                                           \
  KN_CLONES int64_t count_equal(const T* x, int64_t n, T value) {                             \
    return count_equal_impl(x, n, value);                                                     \
  }                                                                                           \
  KN_CLONES void affine_times(const T* e, const T* u, int64_t n, double slope, double offset, \
                              T* out) {                                                       \
    affine_times_impl(e, u, n, slope, offset, out);                                           \
  }

#define KN_LAMBDA __attribute__((always_inline))

KN_DEFINE_SWEEPS(float)
KN_DEFINE_SWEEPS(double)

}  // namespace kernomics
