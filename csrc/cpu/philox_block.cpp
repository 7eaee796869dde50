#include "philox_block.h"

#include "avx512.h"

namespace kernomics {

#ifdef KN_AVX512
namespace {

// Eight counters, each word in the low half of a 64-bit lane. _mm512_mul_epu32 reads low halves
// alone, so the high halves may hold anything and a round takes six instructions. (From 32-bit
// words compilers make full 64-bit multiplications, three operations each.)
struct Counters {
  __m512i c0, c1, c2, c3;
};

constexpr int kGroups = 4;  // independent groups of eight counters hide the multiplier's latency

KN_V4 KN_INLINE void rounds(PhiloxKey key, Counters* c) {
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
  uint32_t k0 = key.k0, k1 = key.k1;
  for (int round = 0; round < 10; ++round) {
    const __m512i x0 = _mm512_set1_epi32(static_cast<int>(k0));
    const __m512i x1 = _mm512_set1_epi32(static_cast<int>(k1));
    for (int g = 0; g < kGroups; ++g) {
      const __m512i p0 = _mm512_mul_epu32(c[g].c0, m0), p1 = _mm512_mul_epu32(c[g].c2, m1);
      // 0x96 is the three-way xor.
      c[g].c0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c[g].c1, x0, 0x96);
      c[g].c2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c[g].c3, x1, 0x96);
      c[g].c1 = p1;
      c[g].c3 = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

KN_V4 KN_INLINE Counters counters_of(PhiloxCounter row, __m512i c0) {
  return {c0, _mm512_set1_epi64(row.c1), _mm512_set1_epi64(row.c2), _mm512_set1_epi64(row.c3)};
}

// The low halves of a and b side by side.
KN_V4 KN_INLINE __m512i pair(__m512i a, __m512i b) {
  return _mm512_mask_shuffle_epi32(a, 0xAAAA, b, _MM_PERM_CCAA);
}

KN_V4 void philox_block_avx512(PhiloxKey key, PhiloxCounter row, uint32_t first, uint32_t* words) {
  // In this order unpacking leaves the words in the order of their columns.
  const __m512i lanes = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (uint32_t start = 0; start < kNoiseColumns / 4; start += 8 * kGroups) {
    Counters c[kGroups];
    for (uint32_t g = 0; g < kGroups; ++g)
      c[g] = counters_of(row, _mm512_add_epi64(_mm512_set1_epi64(first + start + 8u * g), lanes));
    rounds(key, c);
    for (uint32_t g = 0; g < kGroups; ++g) {
      const __m512i a = pair(c[g].c0, c[g].c1), b = pair(c[g].c2, c[g].c3);
      uint32_t* out = words + 4 * start + 32 * g;
      _mm512_storeu_si512(out, _mm512_unpacklo_epi64(a, b));
      _mm512_storeu_si512(out + 16, _mm512_unpackhi_epi64(a, b));
    }
  }
}

// 32 columns at a time.
KN_V4 void philox_columns_avx512(PhiloxKey key, PhiloxCounter row, const int32_t* columns,
                                 uint32_t* words) {
  Counters c[kGroups];
  __m512i column[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    column[g] = _mm512_cvtepu32_epi64(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns + 8 * g)));
    c[g] = counters_of(row, _mm512_srli_epi64(column[g], 2));
  }
  rounds(key, c);
  const __m512i one = _mm512_set1_epi64(1), two = _mm512_set1_epi64(2);
  for (int g = 0; g < kGroups; ++g) {
    const __mmask8 odd = _mm512_test_epi64_mask(column[g], one);
    const __mmask8 upper = _mm512_test_epi64_mask(column[g], two);
    const __m512i low = _mm512_mask_blend_epi64(odd, c[g].c0, c[g].c1);
    const __m512i high = _mm512_mask_blend_epi64(odd, c[g].c2, c[g].c3);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8 * g),
                        _mm512_cvtepi64_epi32(_mm512_mask_blend_epi64(upper, low, high)));
  }
}

}  // namespace
#endif

namespace {

KN_CLONES void philox_block_plain(PhiloxKey key, PhiloxCounter row, uint32_t first,
                                  uint32_t* words) {
  for (uint32_t c = 0; c < kNoiseColumns / 4; ++c) {
    PhiloxCounter counter = row;
    counter.c0 = first + c;
    counter = philox4x32_10(counter, key);
    words[4 * c] = counter.c0;
    words[4 * c + 1] = counter.c1;
    words[4 * c + 2] = counter.c2;
    words[4 * c + 3] = counter.c3;
  }
}

KN_CLONES void philox_columns_plain(PhiloxKey key, PhiloxCounter row, const int32_t* columns,
                                    int64_t count, uint32_t* words) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t column = static_cast<uint32_t>(columns[i]);
    PhiloxCounter c = row;
    c.c0 = column >> 2;
    c = philox4x32_10(c, key);
    const uint32_t low = column & 1 ? c.c1 : c.c0, high = column & 1 ? c.c3 : c.c2;
    words[i] = column & 2 ? high : low;
  }
}

}  // namespace

void philox_block(PhiloxKey key, PhiloxCounter row, uint32_t first, uint32_t* words) {
#ifdef KN_AVX512
  if (has_avx512()) return philox_block_avx512(key, row, first, words);
#endif
  philox_block_plain(key, row, first, words);
}

void philox_columns(PhiloxKey key, PhiloxCounter row, const int32_t* columns, int64_t count,
                    uint32_t* words) {
#ifdef KN_AVX512
  constexpr int64_t kStep = 8 * kGroups;
  if (has_avx512()) {
    for (; count >= kStep; count -= kStep, columns += kStep, words += kStep)
      philox_columns_avx512(key, row, columns, words);
  }
#endif
  philox_columns_plain(key, row, columns, count, words);
}

}  // namespace kernomics
