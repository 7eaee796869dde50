#include "philox_block.h"

#include "isa.h"

namespace kernomics {

#ifdef KN_X86
namespace {

// ---- AVX-512 ----------------------------------------------------------------------------------

// Eight counters, each word in the low half of a 64-bit lane. _mm512_mul_epu32 reads low halves
// alone, so the high halves may hold anything and a round takes six instructions. (From 32-bit
// words compilers make full 64-bit multiplications, three operations each.)
struct Counters {
  __m512i c0, c1, c2, c3;
};

constexpr int kGroups = 4;  // independent groups of eight counters hide the multiplier's latency

KN_AVX512 KN_INLINE void rounds(PhiloxKey key, Counters* c) {
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

KN_AVX512 KN_INLINE Counters counters_of(PhiloxCounter row, __m512i c0) {
  return {c0, _mm512_set1_epi64(row.c1), _mm512_set1_epi64(row.c2), _mm512_set1_epi64(row.c3)};
}

// The low halves of a and b side by side.
KN_AVX512 KN_INLINE __m512i pair(__m512i a, __m512i b) {
  return _mm512_mask_shuffle_epi32(a, 0xAAAA, b, _MM_PERM_CCAA);
}

KN_AVX512 void philox_block_avx512(PhiloxKey key, PhiloxCounter row, uint32_t first,
                                   uint32_t* words) {
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
KN_AVX512 void philox_columns_avx512(PhiloxKey key, PhiloxCounter row, const int32_t* columns,
                                     int64_t count, uint32_t* words) {
  const __m512i one = _mm512_set1_epi64(1), two = _mm512_set1_epi64(2);
  for (int64_t i = 0; i < count; i += 8 * kGroups) {
    Counters c[kGroups];
    __m512i column[kGroups];
    for (int g = 0; g < kGroups; ++g) {
      column[g] = _mm512_cvtepu32_epi64(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns + i + 8 * g)));
      c[g] = counters_of(row, _mm512_srli_epi64(column[g], 2));
    }
    rounds(key, c);
    for (int g = 0; g < kGroups; ++g) {
      const __mmask8 odd = _mm512_test_epi64_mask(column[g], one);
      const __mmask8 upper = _mm512_test_epi64_mask(column[g], two);
      const __m512i low = _mm512_mask_blend_epi64(odd, c[g].c0, c[g].c1);
      const __m512i high = _mm512_mask_blend_epi64(odd, c[g].c2, c[g].c3);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i + 8 * g),
                          _mm512_cvtepi64_epi32(_mm512_mask_blend_epi64(upper, low, high)));
    }
  }
}

// ---- AVX2: the same in half as wide registers -------------------------------------------------

// What the first two rounds make of a row: only c0 differs between columns, so half of their
// products are the row's own.
struct EarlyRounds {
  uint32_t x0, x1, x2, c3;
};

KN_INLINE EarlyRounds early_rounds(PhiloxKey key, PhiloxCounter row) {
  const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * row.c2;
  const uint32_t c0 = static_cast<uint32_t>(p1 >> 32) ^ row.c1 ^ key.k0;
  const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
  return {static_cast<uint32_t>(p1) ^ (key.k0 + 0x9E3779B9u), row.c3 ^ key.k1,
          static_cast<uint32_t>(p0 >> 32) ^ (key.k1 + 0xBB67AE85u), static_cast<uint32_t>(p0)};
}

struct Counters256 {
  __m256i c0, c1, c2, c3;
};

constexpr int kPairs = 2;  // groups of four counters: more do not fit the registers

KN_AVX2 KN_INLINE __m256i xor256(__m256i a, __m256i b) { return _mm256_xor_si256(a, b); }

// From c0 of each group to all its words.
KN_AVX2 KN_INLINE void all_rounds(PhiloxKey key, const EarlyRounds& row, Counters256* c) {
  const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
  const __m256i x0 = _mm256_set1_epi32(static_cast<int>(row.x0));
  const __m256i x1 = _mm256_set1_epi32(static_cast<int>(row.x1));
  const __m256i x2 = _mm256_set1_epi32(static_cast<int>(row.x2));
  for (int g = 0; g < kPairs; ++g) {
    const __m256i p0 = _mm256_mul_epu32(c[g].c0, m0);
    const __m256i p1 = _mm256_mul_epu32(xor256(_mm256_srli_epi64(p0, 32), x1), m1);
    c[g].c0 = xor256(_mm256_srli_epi64(p1, 32), x0);
    c[g].c1 = p1;
    c[g].c2 = xor256(p0, x2);
    c[g].c3 = _mm256_set1_epi32(static_cast<int>(row.c3));
  }
#pragma GCC unroll 8
  for (uint32_t round = 2; round < 10; ++round) {
    const __m256i k0 = _mm256_set1_epi32(static_cast<int>(key.k0 + round * 0x9E3779B9u));
    const __m256i k1 = _mm256_set1_epi32(static_cast<int>(key.k1 + round * 0xBB67AE85u));
    for (int g = 0; g < kPairs; ++g) {
      const __m256i p0 = _mm256_mul_epu32(c[g].c0, m0), p1 = _mm256_mul_epu32(c[g].c2, m1);
      c[g].c0 = xor256(_mm256_srli_epi64(p1, 32), xor256(c[g].c1, k0));
      c[g].c2 = xor256(_mm256_srli_epi64(p0, 32), xor256(c[g].c3, k1));
      c[g].c1 = p1;
      c[g].c3 = p0;
    }
  }
}

// The low halves of a, then those of b, in each half of a register.
KN_AVX2 KN_INLINE __m256i low_halves(__m256i a, __m256i b) {
  return _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), _MM_SHUFFLE(2, 0, 2, 0)));
}
KN_AVX2 KN_INLINE __m256i high_halves(__m256i a, __m256i b) {
  return _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), _MM_SHUFFLE(3, 1, 3, 1)));
}

KN_AVX2 KN_INLINE void store(uint32_t* out, __m256i words) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), words);
}

KN_AVX2 void philox_block_avx2(PhiloxKey key, PhiloxCounter row, uint32_t first, uint32_t* words) {
  // In this order shuffling leaves the words in the order of their columns.
  const __m256i lanes = _mm256_setr_epi64x(0, 2, 1, 3);
  const EarlyRounds early = early_rounds(key, row);
  for (uint32_t start = 0; start < kNoiseColumns / 4; start += 4 * kPairs) {
    Counters256 c[kPairs];
    for (uint32_t g = 0; g < kPairs; ++g)
      c[g].c0 = _mm256_add_epi64(_mm256_set1_epi64x(first + start + 4u * g), lanes);
    all_rounds(key, early, c);
    for (uint32_t g = 0; g < kPairs; ++g) {
      const __m256i a = low_halves(c[g].c0, c[g].c1), b = low_halves(c[g].c2, c[g].c3);
      uint32_t* out = words + 4 * start + 16 * g;
      store(out, low_halves(a, b));
      store(out + 8, high_halves(a, b));
    }
  }
}

// Those of a where the bit of `column` that is now the top one is 0, of b where it is 1.
KN_AVX2 KN_INLINE __m256i choose(__m256i a, __m256i b, __m256i column) {
  return _mm256_castpd_si256(_mm256_blendv_pd(_mm256_castsi256_pd(a), _mm256_castsi256_pd(b),
                                              _mm256_castsi256_pd(column)));
}

// 8 columns at a time.
KN_AVX2 void philox_columns_avx2(PhiloxKey key, PhiloxCounter row, const int32_t* columns,
                                 int64_t count, uint32_t* words) {
  const EarlyRounds early = early_rounds(key, row);
  for (int64_t i = 0; i < count; i += 4 * kPairs) {
    Counters256 c[kPairs];
    __m256i column[kPairs], chosen[kPairs];
    for (int g = 0; g < kPairs; ++g) {
      column[g] = _mm256_cvtepu32_epi64(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(columns + i + 4 * g)));
      c[g].c0 = _mm256_srli_epi64(column[g], 2);
    }
    all_rounds(key, early, c);
    for (int g = 0; g < kPairs; ++g) {
      const __m256i odd = _mm256_slli_epi64(column[g], 63);
      chosen[g] = choose(choose(c[g].c0, c[g].c1, odd), choose(c[g].c2, c[g].c3, odd),
                         _mm256_slli_epi64(column[g], 62));
    }
    store(words + i,
          _mm256_permute4x64_epi64(low_halves(chosen[0], chosen[1]), _MM_SHUFFLE(3, 1, 2, 0)));
  }
}

}  // namespace
#endif

namespace {

void philox_block_plain(PhiloxKey key, PhiloxCounter row, uint32_t first, uint32_t* words) {
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

void philox_columns_plain(PhiloxKey key, PhiloxCounter row, const int32_t* columns, int64_t count,
                          uint32_t* words) {
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
#ifdef KN_X86
  if (isa() == Isa::kAvx512) return philox_block_avx512(key, row, first, words);
  if (isa() == Isa::kAvx2) return philox_block_avx2(key, row, first, words);
#endif
  philox_block_plain(key, row, first, words);
}

void philox_columns(PhiloxKey key, PhiloxCounter row, const int32_t* columns, int64_t count,
                    uint32_t* words) {
  int64_t done = 0;
#ifdef KN_X86
  if (isa() == Isa::kAvx512) {
    done = count - count % (8 * kGroups);
    philox_columns_avx512(key, row, columns, done, words);
  } else if (isa() == Isa::kAvx2) {
    done = count - count % (4 * kPairs);
    philox_columns_avx2(key, row, columns, done, words);
  }
#endif
  philox_columns_plain(key, row, columns + done, count - done, words + done);
}

}  // namespace kernomics
