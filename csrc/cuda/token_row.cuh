// A cell of sample_tokens as a source of items (smallest.cuh): its own entries, or all genes.
#pragma once

#include <type_traits>

#include "../common/philox.h"
#include "kernels.h"
#include "smallest.cuh"

namespace kernomics {

// A call's arguments as the kernels take them.
template <typename T, typename C>
struct TokenJob {
  const T* values;
  const int64_t* indptr;
  const C* columns;
  int64_t stored, rows;
  int genes, n_tokens;
  const int64_t *seed, *cell_ids;
  uint32_t stream;
  const double* library;
  const int32_t* panel_id;
  const uint8_t* panel_mask;
  const int64_t* panel_counts;
  int64_t panels;
  const float* weights;
  bool log1p;
  double target_sum;
  int32_t* gene_ids;
  T* tokens;
  int* lengths;    // [rows] or null
  uint32_t* bits;  // two words per 32 genes for each block, or null: in shared memory
};

// One row, in registers.
template <typename T, typename C>
struct TokenRow {
  const C* columns;
  const T* values;
  int stored, genes;
  const uint8_t* mask;  // the panel's, or null
  const float* weights;
  bool log1p;
  PhiloxKey key;
  PhiloxCounter counter;
  bool drawable;
  uint32_t* bits;
  bool bad;  // this thread met a fault

  __device__ bool in_range(C column) const {
    using Unsigned = std::make_unsigned_t<C>;
    return static_cast<Unsigned>(column) < static_cast<Unsigned>(genes);
  }

  // The words of genes 4·group … 4·group + 3.
  __device__ PhiloxCounter words(uint32_t group) const {
    PhiloxCounter c = counter;
    c.c0 = group;
    return philox4x32_10(c, key);
  }

  // Looks for faults of entry i.
  __device__ void check(int i, C column, T value) {
    const C before = i > 0 ? columns[i - 1] : C(-1);
    if (!in_range(column) || column <= before || (log1p && !sound(value))) bad = true;
  }
};

// A key E/w, equal to the CPU's to the bit. Positive floats are ordered as their bits.
__device__ inline uint32_t weighted_key(uint32_t word, float weight) {
  return float_bits(__fdiv_rn(exponential(word), weight));
}

// The items are the row's entries. A warp takes 128 at a time.
template <bool kWeighted, typename T, typename C>
struct Entries : TokenRow<T, C> {
  static constexpr int kKeyBits = kWeighted ? 31 : 32;
  static constexpr bool kExpressed = true;

  __device__ int items() const { return this->stored; }

  template <typename Visit>
  __device__ int sweep(const Block& b, Visit visit) {
    constexpr int kEach = 4, kStep = kEach * kWarpSize;
    int candidates = 0;
#pragma unroll 1
    for (int base = b.warp * kStep; base < this->stored; base += b.warps * kStep) {
      C column[kEach];
      T value[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int item = base + i * kWarpSize + b.lane;
        const bool inside = item < this->stored;
        column[i] = inside ? this->columns[item] : C(-1);
        value[i] = inside ? this->values[item] : T(0);
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int first = base + i * kWarpSize, item = first + b.lane;
        if (first >= this->stored) break;  // the whole warp
        if (item < this->stored) this->check(item, column[i], value[i]);
        bool candidate = this->in_range(column[i]) && value[i] != T(0);
        if (this->mask != nullptr) candidate = candidate && this->mask[column[i]] != 0;
        const uint32_t gene = static_cast<uint32_t>(column[i]);
        const PhiloxCounter c = this->words(gene / 4);
        const uint32_t even = gene & 2 ? c.c2 : c.c0, odd = gene & 2 ? c.c3 : c.c1;
        uint32_t key = gene & 1 ? odd : even;
        if constexpr (kWeighted) {
          const float weight = candidate ? this->weights[column[i]] : 0.0f;
          if (!weight_fits(weight)) this->bad = true;
          candidate = weight > 0.0f;
          key = weighted_key(key, weight);
        }
        candidates += candidate ? 1 : 0;
        const unsigned votes = __ballot_sync(kAllLanes, visit(item, candidate, key));
        if (b.lane == 0) this->bits[first / kWarpSize] = votes;
      }
    }
    return candidates;
  }
};

// The items are all genes. A thread takes eight at a time, two calls of Philox and one byte.
template <bool kWeighted, typename T, typename C>
struct Genes : TokenRow<T, C> {
  static constexpr int kKeyBits = kWeighted ? 31 : 32;
  static constexpr bool kExpressed = false;

  __device__ int items() const { return this->genes; }

  // Bit i tells whether gene first + i is there and observed.
  __device__ uint32_t observed(int first, bool pack) const {
    const int left = this->genes - first;
    const uint32_t there = left >= 8 ? 0xffu : left > 0 ? (1u << left) - 1 : 0u;
    if (this->mask == nullptr) return there;
    uint32_t bits = 0;
    if (pack && left >= 8) {
      const uint2 flags = *reinterpret_cast<const uint2*>(this->mask + first);
      // Bytes of 0 or 1, gathered in the uppermost four bits.
      bits = __vsetne4(flags.x, 0u) * 0x10204080u >> 28;
      bits |= (__vsetne4(flags.y, 0u) * 0x10204080u >> 28) << 4;
    } else {
      for (int i = 0; i < 8 && i < left; ++i) bits |= (this->mask[first + i] != 0 ? 1u : 0u) << i;
    }
    return bits & there;
  }

  template <typename Visit>
  __device__ int sweep(const Block& b, Visit visit) {
    const int bytes = (this->genes + 31) / 32 * 4;  // of whole words
    const bool pack = reinterpret_cast<uintptr_t>(this->mask) % 8 == 0;
    int candidates = 0;
#pragma unroll 1
    for (int u = b.thread; u < bytes; u += b.threads) {
      uint32_t flags = observed(8 * u, pack), byte = 0;
      const PhiloxCounter c = this->words(2 * u), d = this->words(2 * u + 1);
      uint32_t keys[8] = {c.c0, c.c1, c.c2, c.c3, d.c0, d.c1, d.c2, d.c3};
      if constexpr (kWeighted) {
        for (int i = 0; i < 8; ++i) {
          const float weight = 8 * u + i < this->genes ? this->weights[8 * u + i] : 0.0f;
          if (!weight_fits(weight)) this->bad = true;
          if (!(weight > 0.0f)) flags &= ~(1u << i);
          keys[i] = weighted_key(keys[i], weight);
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i)
        byte |= (visit(8 * u + i, (flags >> i & 1u) != 0, keys[i]) ? 1u : 0u) << i;
      reinterpret_cast<uint8_t*>(this->bits)[u] = static_cast<uint8_t>(byte);
      candidates += __popc(flags);
    }
    return candidates;
  }
};

}  // namespace kernomics
