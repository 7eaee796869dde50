#include "topk.h"

#include <cstring>
#include <limits>
#include <type_traits>

#include "isa.h"

namespace kernomics {
namespace {

template <typename T>
KN_INLINE void maxima_of_groups(const T* y, int64_t n, T* maxima) {
  for (int64_t base = 0; base < n; base += kChunk, maxima += kLanes) {
    Lanes<T> best = Lanes<T>::of(-std::numeric_limits<T>::infinity());
    const int64_t end = std::min(n, base + kChunk);
    int64_t i = base;
    for (; i + kLanes <= end; i += kLanes) best.raise_to(Lanes<T>::from(y + i));
    best.store(maxima);
    for (int64_t l = 0; i < end; ++i, ++l) maxima[l] = maxima[l] > y[i] ? maxima[l] : y[i];
  }
}

// Signed integers in the order of the values: negative floats have their other bits flipped.
template <typename T, typename K>
KN_INLINE T kth_largest_of(const T* values, int64_t n, int64_t k, K* keys) {
  constexpr int kBits = sizeof(K) * 8;
  constexpr K kMagnitude = std::numeric_limits<K>::max();
  for (int64_t i = 0; i < n; ++i) {
    const T plain = values[i] + T(0);  // −0 becomes 0
    K bits;
    std::memcpy(&bits, &plain, sizeof bits);
    keys[i] = bits ^ ((bits >> (kBits - 1)) & kMagnitude);
  }
  // The largest key that at least k keys reach, bit by bit from the top.
  K found = std::numeric_limits<K>::min();
  for (int bit = kBits - 1; bit >= 0; --bit) {
    const K step = static_cast<K>(static_cast<std::make_unsigned_t<K>>(1) << bit);
    const K trial = static_cast<K>(static_cast<std::make_unsigned_t<K>>(found) +
                                   static_cast<std::make_unsigned_t<K>>(step));
    K count = 0;
    for (int64_t i = 0; i < n; ++i) count += keys[i] >= trial ? 1 : 0;
    if (count >= k) found = trial;
  }
  const K bits = found ^ ((found >> (kBits - 1)) & kMagnitude);
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Few values pass, so the sweep asks 16 at a time whether any does.
template <typename T>
KN_INLINE int64_t collect(const T* y, int64_t n, T bound, int64_t* positions) {
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

#ifdef KN_X86
// The same sweep with a comparison mask in place of the inner loop, which compilers do not find.
KN_AVX512 int64_t collect_avx512(const float* y, int64_t n, float bound, int64_t* positions) {
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

KN_AVX2 int64_t collect_avx2(const float* y, int64_t n, float bound, int64_t* positions) {
  const __m256 limit = _mm256_set1_ps(bound);
  int64_t count = 0, i = 0;
  for (; i + 2 * 8 <= n; i += 2 * 8) {
    const __m256 low = _mm256_cmp_ps(_mm256_loadu_ps(y + i), limit, _CMP_GE_OQ);
    const __m256 high = _mm256_cmp_ps(_mm256_loadu_ps(y + i + 8), limit, _CMP_GE_OQ);
    if (_mm256_movemask_ps(_mm256_or_ps(low, high)) == 0) continue;
    int hits = _mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8;
    for (; hits != 0; hits &= hits - 1) positions[count++] = i + __builtin_ctz(hits);
  }
  for (; i < n; ++i)
    if (y[i] >= bound) positions[count++] = i;
  return count;
}
#endif

}  // namespace

void group_maxima(const float* y, int64_t n, float* maxima) {
  for_isa<maxima_of_groups<float>>(y, n, maxima);
}
void group_maxima(const double* y, int64_t n, double* maxima) {
  for_isa<maxima_of_groups<double>>(y, n, maxima);
}

float kth_largest(const float* values, int64_t n, int64_t k, Scratch<int32_t>& keys) {
  keys.resize(n);
  return for_isa<kth_largest_of<float, int32_t>>(values, n, k, keys.data());
}
double kth_largest(const double* values, int64_t n, int64_t k, Scratch<int64_t>& keys) {
  keys.resize(n);
  return for_isa<kth_largest_of<double, int64_t>>(values, n, k, keys.data());
}

int64_t collect_at_least(const float* y, int64_t n, float bound, int64_t* positions) {
#ifdef KN_X86
  if (isa() == Isa::kAvx512) return collect_avx512(y, n, bound, positions);
  if (isa() == Isa::kAvx2) return collect_avx2(y, n, bound, positions);
#endif
  return for_isa<collect<float>>(y, n, bound, positions);
}
int64_t collect_at_least(const double* y, int64_t n, double bound, int64_t* positions) {
  return for_isa<collect<double>>(y, n, bound, positions);
}

}  // namespace kernomics
