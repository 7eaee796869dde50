// Reading counts: ranges of a file, then one sweep that gathers rows, converts and checks them.
#include "read_rows.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "isa.h"

namespace kernomics {

namespace {

constexpr int kLanes = 8;
constexpr double kMaxCount = 16777216;

template <typename I>
KN_INLINE int take_indices(const I* in, int64_t n, int64_t genes, int32_t* out) {
  const bool bad = in[0] < 0 || static_cast<int64_t>(in[n - 1]) >= genes;
  I unordered = 0;  // as wide as what is compared
  out[0] = static_cast<int32_t>(in[0]);
  for (int64_t i = 1; i < n; ++i) {
    out[i] = static_cast<int32_t>(in[i]);
    unordered |= in[i] <= in[i - 1];
  }
  return bad || unordered ? kStoredOrder : 0;
}

// What is wrong with the values of a row that are not all counts.
template <typename V>
KN_INLINE int faults_of(const V* in, int64_t n) {
  int found = 0;
  for (int64_t i = 0; i < n; ++i) {
    const V v = in[i];
    bool amount = false, count = false;
    if constexpr (std::is_floating_point_v<V>) {
      amount = !(v >= 0) || !(v <= std::numeric_limits<V>::max());
      count = !(v <= static_cast<V>(kMaxCount)) || std::floor(v) != v;
    } else {
      if constexpr (std::is_signed_v<V>) amount = v < 0;
      if constexpr (sizeof(V) >= 4) count = v > static_cast<V>(kMaxCount);
    }
    found |= (v == 0 ? kStoredZero : 0) | (amount ? kStoredAmount : 0) |
             (amount || count ? kStoredCount : 0);
  }
  return found;
}

// Whether all are counts from 1 to 2²⁴, in the type's own width so that compilers vectorise it.
template <typename V>
KN_INLINE bool are_counts(const V* in, int64_t n) {
  if constexpr (std::is_floating_point_v<V>) {
    using Integer = std::conditional_t<sizeof(V) == 8, int64_t, int32_t>;
    Integer bad = 0;
    for (int64_t i = 0; i < n; ++i) {
      const V inside = in[i] > 0 && in[i] <= static_cast<V>(kMaxCount) ? in[i] : V(0.5);
      bad |= static_cast<V>(static_cast<Integer>(inside)) != inside;
    }
    return bad == 0;
  } else {
    V most = 0, least = 1;
    for (int64_t i = 0; i < n; ++i) {
      most = std::max(most, in[i]);
      least = std::min(least, in[i]);
    }
    if constexpr (sizeof(V) >= 4)
      if (most > static_cast<V>(kMaxCount)) return false;
    return least > 0;
  }
}

template <typename V>
KN_INLINE int take_values(const V* in, int64_t n, float* out, float* total) {
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) {
      out[i + j] = static_cast<float>(in[i + j]);
      sums[j] += static_cast<double>(out[i + j]);
    }
  double sum = 0;
  for (; i < n; ++i) {
    out[i] = static_cast<float>(in[i]);
    sum += static_cast<double>(out[i]);
  }
  for (double part : sums) sum += part;
  *total = static_cast<float>(sum);
  return are_counts(in, n) ? 0 : faults_of(in, n);
}

template <typename I, typename V>
KN_INLINE int take(const TakeRows& p) {
  int faults = 0;
  for (int64_t r = 0; r < p.rows; ++r) {
    const int64_t out = p.indptr[r], n = p.indptr[r + 1] - out;
    p.totals[r] = 0;
    if (n == 0) continue;
    faults |= take_indices(static_cast<const I*>(p.indices) + p.starts[r], n, p.genes,
                           p.out_indices + out);
    faults |= take_values(static_cast<const V*>(p.values) + p.starts[r], n, p.out_values + out,
                          p.totals + r);
  }
  return faults;
}

template <typename I>
int take_kind(const TakeRows& p) {
  switch (p.value_kind) {
    case kStoredI8:
      return for_isa<&take<I, int8_t>>(p);
    case kStoredU8:
      return for_isa<&take<I, uint8_t>>(p);
    case kStoredI16:
      return for_isa<&take<I, int16_t>>(p);
    case kStoredU16:
      return for_isa<&take<I, uint16_t>>(p);
    case kStoredI32:
      return for_isa<&take<I, int32_t>>(p);
    case kStoredU32:
      return for_isa<&take<I, uint32_t>>(p);
    case kStoredI64:
      return for_isa<&take<I, int64_t>>(p);
    case kStoredU64:
      return for_isa<&take<I, uint64_t>>(p);
    case kStoredF32:
      return for_isa<&take<I, float>>(p);
    case kStoredF64:
      return for_isa<&take<I, double>>(p);
    default:
      return kStoredUnknown;
  }
}

KN_INLINE uint64_t mixed(uint64_t word) {  // SplitMix64's
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBu;
  return word ^ (word >> 31);
}

KN_INLINE void words(int64_t rows, const int64_t* indptr, const int32_t* indices,
                     const float* values, const uint64_t* genes, uint64_t* out) {
  for (int64_t r = 0; r < rows; ++r) {
    uint64_t sum = 0;
    for (int64_t i = indptr[r]; i < indptr[r + 1]; ++i) {
      uint32_t bits;
      std::memcpy(&bits, values + i, sizeof bits);
      sum += mixed(genes[indices[i]] ^ (bits * 0x9E3779B97F4A7C15u));
    }
    out[r] = sum;
  }
}

}  // namespace

ReadFault read_ranges(int file, int64_t n, const int64_t* offsets, const int64_t* lengths,
                      char* out) {
  // The system then reads them from the disk side by side; what it has in memory costs nothing.
  for (int64_t i = 0; n > 1 && i < n; ++i)
    posix_fadvise(file, offsets[i], lengths[i], POSIX_FADV_WILLNEED);
  for (int64_t i = 0; i < n; ++i) {
    int64_t offset = offsets[i], left = lengths[i];
    while (left > 0) {
      const ssize_t got = pread(file, out, static_cast<size_t>(left), offset);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return {i, got < 0 ? errno : 0};
      out += got, offset += got, left -= got;
    }
  }
  return {-1, 0};
}

int take_rows(const TakeRows& params) {
  if (params.index_kind == kStoredI32) return take_kind<int32_t>(params);
  if (params.index_kind == kStoredI64) return take_kind<int64_t>(params);
  return kStoredUnknown;
}

void row_words(int64_t rows, const int64_t* indptr, const int32_t* indices, const float* values,
               const uint64_t* genes, uint64_t* out) {
  for_isa<&words>(rows, indptr, indices, values, genes, out);
}

}  // namespace kernomics
