#include "topk.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define KN_AVX512_COLLECT 1
#include <immintrin.h>
#endif

namespace kernomics {
namespace {

template <typename T>
inline __attribute__((always_inline)) void group_maxima_impl(const T* y, int64_t n, int64_t depth,
                                                             T* maxima) {
  const int64_t chunk = kLanes * depth;
  for (int64_t base = 0; base < n; base += chunk, maxima += kLanes) {
    T best[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) best[l] = -std::numeric_limits<T>::infinity();
    const int64_t end = std::min(n, base + chunk);
    int64_t i = base;
    for (; i + kLanes <= end; i += kLanes)
      for (int64_t l = 0; l < kLanes; ++l) best[l] = best[l] > y[i + l] ? best[l] : y[i + l];
    for (int64_t l = 0; i < end; ++i, ++l) best[l] = best[l] > y[i] ? best[l] : y[i];
    for (int64_t l = 0; l < kLanes; ++l) maxima[l] = best[l];
  }
}

// Few values pass, so the sweep asks 16 at a time whether any does.
template <typename T>
inline __attribute__((always_inline)) int64_t collect_impl(const T* y, int64_t n, T bound,
                                                           int64_t* positions) {
  int64_t count = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    int32_t any = 0;
    for (int64_t l = 0; l < kLanes; ++l) any |= y[i + l] >= bound ? 1 : 0;
    if (any == 0) continue;
    for (int64_t l = 0; l < kLanes; ++l) {
      positions[count] = i + l;
      count += y[i + l] >= bound ? 1 : 0;
    }
  }
  for (; i < n; ++i) {
    positions[count] = i;
    count += y[i] >= bound ? 1 : 0;
  }
  return count;
}

#ifdef KN_AVX512_COLLECT
// The same sweep with a comparison mask in place of the inner loop, which compilers do not find.
__attribute__((target("arch=x86-64-v4"))) int64_t collect_avx512(const float* y, int64_t n,
                                                                 float bound, int64_t* positions) {
  const __m512 limit = _mm512_set1_ps(bound);
  int64_t count = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    uint32_t hits = _mm512_cmp_ps_mask(_mm512_loadu_ps(y + i), limit, _CMP_GE_OQ);
    for (; hits != 0; hits &= hits - 1) positions[count++] = i + __builtin_ctz(hits);
  }
  for (; i < n; ++i)
    if (y[i] >= bound) positions[count++] = i;
  return count;
}
#endif

KN_CLONES int64_t collect_plain(const float* y, int64_t n, float bound, int64_t* positions) {
  return collect_impl(y, n, bound, positions);
}

}  // namespace

KN_CLONES void group_maxima(const float* y, int64_t n, int64_t depth, float* maxima) {
  group_maxima_impl(y, n, depth, maxima);
}
KN_CLONES void group_maxima(const double* y, int64_t n, int64_t depth, double* maxima) {
  group_maxima_impl(y, n, depth, maxima);
}
int64_t collect_at_least(const float* y, int64_t n, float bound, int64_t* positions) {
#ifdef KN_AVX512_COLLECT
  static const bool avx512 = __builtin_cpu_supports("x86-64-v4");
  if (avx512) return collect_avx512(y, n, bound, positions);
#endif
  return collect_plain(y, n, bound, positions);
}
KN_CLONES int64_t collect_at_least(const double* y, int64_t n, double bound, int64_t* positions) {
  return collect_impl(y, n, bound, positions);
}

}  // namespace kernomics
