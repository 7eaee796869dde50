#include "smallest.h"

#include <algorithm>
#include <cmath>

#include "isa.h"

namespace kernomics {
namespace {

constexpr uint32_t kLargest = 0xFFFFFFFFu;
constexpr double kDeviations = 3;

// How far the number of keys below the expected k-th smallest strays, of n keys. For keys that are
// not alike the variance is smaller.
double spread(double k, double n) {
  return kDeviations * std::sqrt(k * std::max(0.0, 1 - k / n)) + 2;
}

// The k-th smallest of n keys, k from 1: bit by bit from the top the largest value that fewer than
// k keys fall below, with a vectorised count per bit.
KN_INLINE uint32_t kth_smallest_of(const uint32_t* keys, int64_t n, int64_t k) {
  uint32_t found = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t trial = found | (uint32_t(1) << bit);
    int32_t below = 0;
    for (int64_t i = 0; i < n; ++i) below += keys[i] < trial ? 1 : 0;
    if (below < k) found = trial;
  }
  return found;
}

KN_INLINE void count_around(const uint32_t* keys, int64_t n, uint32_t key, int64_t* below,
                            int64_t* equal) {
  int32_t less = 0, same = 0;
  for (int64_t i = 0; i < n; ++i) {
    less += keys[i] < key ? 1 : 0;
    same += keys[i] == key ? 1 : 0;
  }
  *below = less;
  *equal = same;
}

uint32_t kth_smallest(const uint32_t* keys, int64_t n, int64_t k) {
  return for_isa<kth_smallest_of>(keys, n, k);
}

// ---- compaction: plain, and with what compilers do not find ------------------------------

void append_plain(const uint32_t* keys, const uint8_t* flags, int64_t count, int32_t first,
                  uint32_t bound, KeyList& list) {
  uint32_t* out_keys = list.keys.data();
  int32_t* out_genes = list.genes.data();
  int64_t n = list.count;
  for (int64_t i = 0; i < count; ++i) {
    out_keys[n] = keys[i];
    out_genes[n] = first + static_cast<int32_t>(i);
    n += (keys[i] <= bound) & (flags == nullptr || flags[i] != 0);
  }
  list.count = n;
}

// Copies the keys within the bracket; returns how many, and counts those below it.
int64_t band_plain(const uint32_t* keys, int64_t n, Bracket bracket, uint32_t* band,
                   int64_t* below) {
  int64_t count = 0, less = 0;
  for (int64_t i = 0; i < n; ++i) {
    band[count] = keys[i];
    less += keys[i] < bracket.low;
    count += (keys[i] >= bracket.low) & (keys[i] <= bracket.high);
  }
  *below = less;
  return count;
}

// Writes the genes of all keys below `key` and of the first `ties` that equal it.
void take_plain(const KeyList& list, uint32_t key, int64_t ties, int32_t* genes) {
  int64_t n = 0;
  for (int64_t i = 0; i < list.count; ++i) {
    const uint32_t found = list.keys[i];
    if (found < key || (found == key && ties-- > 0)) genes[n++] = list.genes[i];
  }
}

#ifdef KN_X86
KN_AVX512 void append_avx512(const uint32_t* keys, const uint8_t* flags, int64_t count,
                             int32_t first, uint32_t bound, KeyList& list) {
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(bound));
  __m512i gene =
      _mm512_add_epi32(_mm512_set1_epi32(first),
                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  uint32_t* out_keys = list.keys.data();
  int32_t* out_genes = list.genes.data();
  int64_t n = list.count;
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 inside =
        static_cast<__mmask16>(count - i >= 16 ? 0xFFFF : (1 << (count - i)) - 1);
    const __m512i key = _mm512_maskz_loadu_epi32(inside, keys + i);
    __mmask16 kept = _mm512_mask_cmple_epu32_mask(inside, key, limit);
    if (flags != nullptr) {
      const __m128i flag = _mm_maskz_loadu_epi8(inside, flags + i);
      kept &= _mm_test_epi8_mask(flag, flag);
    }
    // Compressed into a register: storing compressed takes many times longer on some processors.
    _mm512_storeu_si512(out_keys + n, _mm512_maskz_compress_epi32(kept, key));
    _mm512_storeu_si512(out_genes + n, _mm512_maskz_compress_epi32(kept, gene));
    n += __builtin_popcount(kept);
    gene = _mm512_add_epi32(gene, _mm512_set1_epi32(16));
  }
  list.count = n;
}

KN_AVX512 int64_t band_avx512(const uint32_t* keys, int64_t n, Bracket bracket, uint32_t* band,
                              int64_t* below) {
  const __m512i low = _mm512_set1_epi32(static_cast<int>(bracket.low));
  const __m512i high = _mm512_set1_epi32(static_cast<int>(bracket.high));
  int64_t count = 0, less = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 inside = static_cast<__mmask16>(n - i >= 16 ? 0xFFFF : (1 << (n - i)) - 1);
    const __m512i key = _mm512_maskz_loadu_epi32(inside, keys + i);
    const __mmask16 under = _mm512_mask_cmplt_epu32_mask(inside, key, low);
    const __mmask16 within = _mm512_mask_cmple_epu32_mask(inside & ~under, key, high);
    less += __builtin_popcount(under);
    _mm512_storeu_si512(band + count, _mm512_maskz_compress_epi32(within, key));
    count += __builtin_popcount(within);
  }
  *below = less;
  return count;
}

// Where every key up to `key` is taken, k in all; writes nothing beyond them.
KN_AVX512 void take_avx512(const KeyList& list, uint32_t key, int64_t k, int32_t* genes) {
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(key));
  int64_t n = 0;
  for (int64_t i = 0; i < list.count; i += 16) {
    const int64_t left = list.count - i;
    const __mmask16 inside = static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1 << left) - 1);
    const __m512i found = _mm512_maskz_loadu_epi32(inside, list.keys.data() + i);
    const __mmask16 kept = _mm512_mask_cmple_epu32_mask(inside, found, limit);
    const __m512i gene = _mm512_maskz_loadu_epi32(inside, list.genes.data() + i);
    const int taken = __builtin_popcount(kept);
    const __m512i kept_genes = _mm512_maskz_compress_epi32(kept, gene);
    if (n + 16 <= k)
      _mm512_storeu_si512(genes + n, kept_genes);
    else
      _mm512_mask_storeu_epi32(genes + n, static_cast<__mmask16>((1 << taken) - 1), kept_genes);
    n += taken;
  }
}

// Where the lanes of a mask of eight go to stand together: one byte a lane.
struct Packing {
  uint64_t lanes[256];
};

constexpr Packing make_packing() {
  Packing packing{};
  for (int mask = 0; mask < 256; ++mask) {
    int taken = 0;
    for (uint64_t lane = 0; lane < 8; ++lane)
      if ((mask >> lane) & 1) packing.lanes[mask] |= lane << (8 * taken++);
  }
  return packing;
}

constexpr Packing kPacking = make_packing();

KN_AVX2 KN_INLINE __m256i load256(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
KN_AVX2 KN_INLINE void store256(void* to, __m256i x) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), x);
}
KN_AVX2 KN_INLINE __m256i at_most(__m256i x, __m256i limit) {
  return _mm256_cmpeq_epi32(_mm256_min_epu32(x, limit), x);
}
KN_AVX2 KN_INLINE int mask_of(__m256i lanes) {
  return _mm256_movemask_ps(_mm256_castsi256_ps(lanes));
}
KN_AVX2 KN_INLINE __m256i packing_of(int mask) {
  return _mm256_cvtepu8_epi32(
      _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPacking.lanes + mask)));
}

KN_AVX2 void append_avx2(const uint32_t* keys, const uint8_t* flags, int64_t count, int32_t first,
                         uint32_t bound, KeyList& list) {
  const __m256i limit = _mm256_set1_epi32(static_cast<int>(bound)), none = _mm256_setzero_si256();
  __m256i gene =
      _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  uint32_t* out_keys = list.keys.data();
  int32_t* out_genes = list.genes.data();
  int64_t n = list.count, i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i key = load256(keys + i);
    __m256i kept = at_most(key, limit);
    if (flags != nullptr) {
      const __m128i flag = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(flags + i));
      kept = _mm256_andnot_si256(_mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(flag), none), kept);
    }
    const int mask = mask_of(kept);
    const __m256i packing = packing_of(mask);
    store256(out_keys + n, _mm256_permutevar8x32_epi32(key, packing));
    store256(out_genes + n, _mm256_permutevar8x32_epi32(gene, packing));
    n += __builtin_popcount(mask);
    gene = _mm256_add_epi32(gene, _mm256_set1_epi32(8));
  }
  list.count = n;
  append_plain(keys + i, flags == nullptr ? nullptr : flags + i, count - i,
               first + static_cast<int32_t>(i), bound, list);
}

KN_AVX2 int64_t band_avx2(const uint32_t* keys, int64_t n, Bracket bracket, uint32_t* band,
                          int64_t* below) {
  const __m256i low = _mm256_set1_epi32(static_cast<int>(bracket.low));
  const __m256i high = _mm256_set1_epi32(static_cast<int>(bracket.high));
  int64_t count = 0, reached = 0, i = 0, rest;
  for (; i + 8 <= n; i += 8) {
    const __m256i key = load256(keys + i), reaches = at_most(low, key);
    const int mask = mask_of(_mm256_and_si256(reaches, at_most(key, high)));
    reached += __builtin_popcount(mask_of(reaches));
    store256(band + count, _mm256_permutevar8x32_epi32(key, packing_of(mask)));
    count += __builtin_popcount(mask);
  }
  count += band_plain(keys + i, n - i, bracket, band + count, &rest);
  *below = i - reached + rest;
  return count;
}

// As above.
KN_AVX2 void take_avx2(const KeyList& list, uint32_t key, int64_t k, int32_t* genes) {
  const __m256i limit = _mm256_set1_epi32(static_cast<int>(key));
  int64_t n = 0, i = 0;
  for (; i + 8 <= list.count && n + 8 <= k; i += 8) {
    const int mask = mask_of(at_most(load256(list.keys.data() + i), limit));
    const __m256i gene = load256(list.genes.data() + i);
    store256(genes + n, _mm256_permutevar8x32_epi32(gene, packing_of(mask)));
    n += __builtin_popcount(mask);
  }
  for (; n < k; ++i) {
    genes[n] = list.genes[i];
    n += list.keys[i] <= key;
  }
}
#endif

int64_t band_of(const uint32_t* keys, int64_t n, Bracket bracket, uint32_t* band, int64_t* below) {
#ifdef KN_X86
  if (isa() == Isa::kAvx512) return band_avx512(keys, n, bracket, band, below);
  if (isa() == Isa::kAvx2) return band_avx2(keys, n, bracket, band, below);
#endif
  return band_plain(keys, n, bracket, band, below);
}

// The k genes of take_plain, `equal` keys being equal to `key`.
void take(const KeyList& list, uint32_t key, int64_t ties, [[maybe_unused]] int64_t equal,
          [[maybe_unused]] int64_t k, int32_t* genes) {
#ifdef KN_X86
  if (isa() == Isa::kAvx512 && ties == equal) return take_avx512(list, key, k, genes);
  if (isa() == Isa::kAvx2 && ties == equal) return take_avx2(list, key, k, genes);
#endif
  take_plain(list, key, ties, genes);
}

}  // namespace

Bracket uniform_bracket(int64_t k, int64_t n) {
  const double d = spread(static_cast<double>(k), static_cast<double>(n));
  const double low = (k - d) / n * 0x1p32, high = (k + d) / n * 0x1p32;
  return {low > 0 ? static_cast<uint32_t>(low) : 0u,
          high < 0x1p32 ? static_cast<uint32_t>(high) : kLargest};
}

Bracket sampled_bracket(const KeyList& list, int64_t k, Scratch<uint32_t>& scratch) {
  constexpr int64_t kStride = 16;
  const int64_t n = list.count / kStride;
  const double rank = static_cast<double>(k) / kStride;
  const double d = spread(rank, static_cast<double>(std::max<int64_t>(n, 1)));
  const int64_t low = static_cast<int64_t>(rank - d), high = static_cast<int64_t>(rank + d) + 1;
  scratch.resize(n + kKeyRoom);
  for (int64_t i = 0; i < n; ++i) scratch[i] = list.keys[i * kStride + kStride / 2];
  return {low >= 1 ? kth_smallest(scratch.data(), n, low) : 0u,
          high <= n ? kth_smallest(scratch.data(), n, high) : kLargest};
}

void append_at_most(const uint32_t* keys, const uint8_t* flags, int64_t count, int32_t first,
                    uint32_t bound, KeyList& list) {
#ifdef KN_X86
  if (isa() == Isa::kAvx512) return append_avx512(keys, flags, count, first, bound, list);
  if (isa() == Isa::kAvx2) return append_avx2(keys, flags, count, first, bound, list);
#endif
  append_plain(keys, flags, count, first, bound, list);
}

bool take_smallest(const KeyList& list, int64_t k, Bracket bracket, Scratch<uint32_t>& scratch,
                   int32_t* genes, int64_t n, Bracket* next) {
  scratch.resize(list.count + kKeyRoom);
  uint32_t* band = scratch.data();
  int64_t below, less, equal;
  const int64_t count = band_of(list.keys.data(), list.count, bracket, band, &below);
  if (below >= k || below + count < k) return false;
  const uint32_t key = kth_smallest(band, count, k - below);
  for_isa<count_around>(band, count, key, &less, &equal);
  take(list, key, k - below - less, equal, k, genes);
  if (next != nullptr) {
    // Both lists stray from what is expected.
    const int64_t d = static_cast<int64_t>(std::sqrt(2.0) *
                                           spread(static_cast<double>(k), static_cast<double>(n)));
    const int64_t low = k - d - below, high = k + d - below;
    *next = {low >= 1 ? kth_smallest(band, count, low) : bracket.low,
             high <= count ? kth_smallest(band, count, high) : bracket.high};
  }
  return true;
}

}  // namespace kernomics
