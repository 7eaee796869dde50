#include "philox_block.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define KN_AVX512_PHILOX 1
#include <immintrin.h>
#endif

namespace kernomics {

#ifdef KN_AVX512_PHILOX
namespace {

#define KN_V4 __attribute__((target("arch=x86-64-v4")))

// High and low halves of 16 products with a constant. Compilers emit full 64-bit multiplications
// here (three operations each); _mm512_mul_epu32 is the one instruction that is needed.
KN_V4 inline __attribute__((always_inline)) void multiply(__m512i x, __m512i constant,
                                                          __m512i* high, __m512i* low) {
  const __m512i even = _mm512_mul_epu32(x, constant);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), constant);
  *high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
  *low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}

// Four vectors, one per output word, to the words in column order.
KN_V4 inline __attribute__((always_inline)) void store_interleaved(__m512i a, __m512i b, __m512i c,
                                                                   __m512i d, uint32_t* out) {
  const __m512i ab_lo = _mm512_unpacklo_epi32(a, b), ab_hi = _mm512_unpackhi_epi32(a, b);
  const __m512i cd_lo = _mm512_unpacklo_epi32(c, d), cd_hi = _mm512_unpackhi_epi32(c, d);
  const __m512i q0 = _mm512_unpacklo_epi64(ab_lo, cd_lo);  // counters 0, 4, 8, 12
  const __m512i q1 = _mm512_unpackhi_epi64(ab_lo, cd_lo);  // 1, 5, 9, 13
  const __m512i q2 = _mm512_unpacklo_epi64(ab_hi, cd_hi);  // 2, 6, 10, 14
  const __m512i q3 = _mm512_unpackhi_epi64(ab_hi, cd_hi);  // 3, 7, 11, 15
  const __m512i p0 = _mm512_shuffle_i32x4(q0, q1, 0x44);   // 0 4 | 1 5
  const __m512i p1 = _mm512_shuffle_i32x4(q2, q3, 0x44);   // 2 6 | 3 7
  const __m512i p2 = _mm512_shuffle_i32x4(q0, q1, 0xEE);   // 8 12 | 9 13
  const __m512i p3 = _mm512_shuffle_i32x4(q2, q3, 0xEE);   // 10 14 | 11 15
  _mm512_storeu_si512(out, _mm512_shuffle_i32x4(p0, p1, 0x88));
  _mm512_storeu_si512(out + 16, _mm512_shuffle_i32x4(p0, p1, 0xDD));
  _mm512_storeu_si512(out + 32, _mm512_shuffle_i32x4(p2, p3, 0x88));
  _mm512_storeu_si512(out + 48, _mm512_shuffle_i32x4(p2, p3, 0xDD));
}

KN_V4 void philox_block_avx512(PhiloxKey key, PhiloxCounter row, uint32_t first, uint32_t* words) {
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int half = 0; half < 2; ++half) {
    // Two independent groups of 16 counters hide the multiplier's latency.
    __m512i c0[2], c1[2], c2[2], c3[2];
    for (int g = 0; g < 2; ++g) {
      const int start = static_cast<int>(first) + 16 * (2 * half + g);
      c0[g] = _mm512_add_epi32(_mm512_set1_epi32(start), lanes);
      c1[g] = _mm512_set1_epi32(static_cast<int>(row.c1));
      c2[g] = _mm512_set1_epi32(static_cast<int>(row.c2));
      c3[g] = _mm512_set1_epi32(static_cast<int>(row.c3));
    }
    uint32_t k0 = key.k0, k1 = key.k1;
    for (int round = 0; round < 10; ++round) {
      const __m512i x0 = _mm512_set1_epi32(static_cast<int>(k0));
      const __m512i x1 = _mm512_set1_epi32(static_cast<int>(k1));
      for (int g = 0; g < 2; ++g) {
        __m512i high0, low0, high1, low1;
        multiply(c0[g], m0, &high0, &low0);
        multiply(c2[g], m1, &high1, &low1);
        c0[g] = _mm512_ternarylogic_epi32(high1, c1[g], x0, 0x96);  // three-way xor
        c2[g] = _mm512_ternarylogic_epi32(high0, c3[g], x1, 0x96);
        c1[g] = low1;
        c3[g] = low0;
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int g = 0; g < 2; ++g)
      store_interleaved(c0[g], c1[g], c2[g], c3[g], words + 64 * (2 * half + g));
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

}  // namespace

void philox_block(PhiloxKey key, PhiloxCounter row, uint32_t first, uint32_t* words) {
#ifdef KN_AVX512_PHILOX
  static const bool avx512 = __builtin_cpu_supports("x86-64-v4");
  if (avx512) return philox_block_avx512(key, row, first, words);
#endif
  philox_block_plain(key, row, first, words);
}

}  // namespace kernomics
