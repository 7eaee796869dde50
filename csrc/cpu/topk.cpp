#include "topk.h"

#include <cstring>
#include <limits>
#include <type_traits>

#include "avx512.h"
#include "clones.h"

namespace kernomics {
namespace {

template <typename T>
KN_INLINE void group_maxima_impl(const T* y, int64_t n, T* maxima) {
  for (int64_t base = 0; base < n; base += kChunk, maxima += kLanes) {
    Lanes<T> best = Lanes<T>{} - std::numeric_limits<T>::infinity(), v;
    const int64_t end = std::min(n, base + kChunk);
    int64_t i = base;
    for (; i + kLanes <= end; i += kLanes) {
      load(y + i, v);
      best = best > v ? best : v;
    }
    for (int64_t l = 0; i < end; ++i, ++l) best[l] = best[l] > y[i] ? best[l] : y[i];
    std::memcpy(maxima, &best, sizeof best);
  }
}

// Signed integers in the order of the values: negative floats have their other bits flipped.
template <typename T, typename K>
KN_INLINE T kth_largest_impl(const T* values, int64_t n, int64_t k, K* keys) {
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
KN_INLINE int64_t collect_impl(const T* y, int64_t n, T bound, int64_t* positions) {
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

#ifdef KN_AVX512
// The same sweep with a comparison mask in place of the inner loop, which compilers do not find.
KN_V4 int64_t collect_avx512(const float* y, int64_t n, float bound, int64_t* positions) {
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

KN_CLONES void group_maxima(const float* y, int64_t n, float* maxima) {
  group_maxima_impl(y, n, maxima);
}
KN_CLONES void group_maxima(const double* y, int64_t n, double* maxima) {
  group_maxima_impl(y, n, maxima);
}

KN_CLONES float kth_largest_f32(const float* values, int64_t n, int64_t k, int32_t* keys) {
  return kth_largest_impl(values, n, k, keys);
}
KN_CLONES double kth_largest_f64(const double* values, int64_t n, int64_t k, int64_t* keys) {
  return kth_largest_impl(values, n, k, keys);
}
float kth_largest(const float* values, int64_t n, int64_t k, Scratch<int32_t>& keys) {
  keys.resize(n);
  return kth_largest_f32(values, n, k, keys.data());
}
double kth_largest(const double* values, int64_t n, int64_t k, Scratch<int64_t>& keys) {
  keys.resize(n);
  return kth_largest_f64(values, n, k, keys.data());
}

int64_t collect_at_least(const float* y, int64_t n, float bound, int64_t* positions) {
#ifdef KN_AVX512
  if (has_avx512()) return collect_avx512(y, n, bound, positions);
#endif
  return collect_plain(y, n, bound, positions);
}
KN_CLONES int64_t collect_at_least(const double* y, int64_t n, double bound, int64_t* positions) {
  return collect_impl(y, n, bound, positions);
}

}  // namespace kernomics
