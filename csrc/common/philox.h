// Philox4x32-10, the one source of random words (Salmon et al., SC 2011).
//
// A word is a pure function of what is drawn, never of where or when: key = the 64-bit seed;
// counter c0 = column >> 2 (the output word is column & 3), c1 = row id bits 0-31,
// c2 = row id bits 32-47 | stream << 16, c3 = step. Hence noise does not depend on the batch split,
// the number of threads or ranks, or the device, and may be recomputed instead of stored.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace kernomics {

// One constant per purpose, so that two uses of one seed never share words.
enum Stream : uint32_t {
  kStreamGeneScores = 0,  // Gumbel noise on gene scores
  kStreamTokens = 1,      // which genes of a cell become tokens
  kStreamDropout = 10,    // which numbers stay; those between are drawn in python/kernomics/nn
};

struct PhiloxKey {
  uint32_t k0, k1;
};

struct PhiloxCounter {
  uint32_t c0, c1, c2, c3;
};

// A call's seed: (key, step), zeros where none is given.
struct Seed {
  int64_t key, step;
};

KN_HD Seed read_seed(const int64_t* seed) {
  return seed == nullptr ? Seed{0, 0} : Seed{seed[0], seed[1]};
}

KN_HD PhiloxKey philox_key(int64_t seed) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32)};
}

// The counter of a row's first four columns; add column >> 2 to c0 for the others.
KN_HD PhiloxCounter philox_row_counter(int64_t row_id, uint32_t stream, int64_t step) {
  const uint64_t row = static_cast<uint64_t>(row_id);
  return {0u, static_cast<uint32_t>(row),
          (static_cast<uint32_t>(row >> 32) & 0xFFFFu) | (stream << 16),
          static_cast<uint32_t>(step)};
}

KN_HD PhiloxCounter philox4x32_10(PhiloxCounter c, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c.c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c.c2;
    c = {static_cast<uint32_t>(p1 >> 32) ^ c.c1 ^ key.k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c.c3 ^ key.k1, static_cast<uint32_t>(p0)};
    key.k0 += 0x9E3779B9u;
    key.k1 += 0xBB67AE85u;
  }
  return c;
}

}  // namespace kernomics
