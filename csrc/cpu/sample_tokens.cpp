// sample_tokens on the CPU: per cell the K candidate genes with the smallest keys, and their
// values. The key of a gene is its Philox word, or E/w with E the exponential number of the word.
//
// A row of at least K candidates: the words of all genes in blocks of 256, of which one compaction
// keeps those up to a bound a few standard deviations above the expected K-th smallest; exact
// selection among the few near it (smallest.h). Of expressed genes alone, only their own words
// where that is less. Values: the row is scattered into a table of zeros that stays in the L2
// cache, the chosen genes are looked up there, log1p is taken of these alone.
// Operations: ten rounds of Philox per four genes, which bound it, about 0.4 ns a gene with
// AVX-512. Bytes: the row's entries (8 each) and 8·K written.
// Limits: genes below 2³¹. Per thread at most 20 bytes a gene up to 2²⁰ genes; above that some 20
// for each of a row's entries and tokens (with weights 12 a gene).
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../common/math.h"
#include "csr.h"
#include "isa.h"
#include "kernels.h"
#include "philox_block.h"
#include "scratch.h"
#include "smallest.h"
#include "token_values.h"

namespace kernomics {
namespace {

constexpr uint32_t kEveryKey = 0xFFFFFFFFu;
constexpr uint32_t kInfiniteKey = 0x7F800000u;  // E/w may overflow; genes of weight 0 are beyond it
constexpr int64_t kSerialWork = int64_t(1) << 15;  // words: too little to wake other threads for

template <typename T>
struct TokenScratch {
  KeyList list;
  Scratch<uint32_t> words, band;
  Scratch<Bracket> brackets;  // [panels], with weights: learnt from earlier rows; {0, 0}: none
  Scratch<T> counts;          // [genes], zeros between rows
};

// ---- soundness ------------------------------------------------------------------------------

template <typename T>
KN_INLINE int64_t first_unsound(const T* x, int64_t n) {
  int bad = 0;
  for (int64_t i = 0; i < n; ++i) bad |= sound(x[i]) ? 0 : 1;
  if (!bad) return -1;
  for (int64_t i = 0; i < n; ++i)
    if (!sound(x[i])) return i;
  return -1;
}

template <typename T, typename C>
Report check(const SampleTokens<T>& a, int64_t b) {
  Report csr =
      for_isa<check_csr_row<C>>(a.indptr + b, static_cast<const C*>(a.columns), a.stored, a.genes);
  csr.row = b;
  if (csr.fault != kCsrFine) return csr;
  if (a.cell_ids != nullptr && (a.cell_ids[b] < 0 || a.cell_ids[b] >> 48 != 0))
    return {kTokensCellId, b, 0, a.cell_ids[b], 0, 1};
  if (a.panel_id != nullptr && (a.panel_id[b] < 0 || a.panel_id[b] >= a.panels))
    return {kTokensPanel, b, 0, a.panel_id[b], 0, 1};
  if (a.library != nullptr && !sound(a.library[b]))
    return {kTokensLibrary, b, 0, 0, a.library[b], 1};
  if (a.log1p) {
    const T* values = a.values + a.indptr[b];
    const int64_t n = a.indptr[b + 1] - a.indptr[b], bad = for_isa<first_unsound<T>>(values, n);
    if (bad >= 0) return {kTokensCount, b, bad, 0, static_cast<double>(values[bad]), 1};
    // Only float64 counts can have a sum beyond float64.
    if (std::is_same_v<T, double> && a.library == nullptr && !sound(sum_of(values, n)))
      return {kTokensLibrary, b, 0, 0, std::numeric_limits<double>::infinity(), 1};
  }
  return {};
}

KN_INLINE int64_t count_unfit(const float* weights, int64_t n) {
  int32_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += weight_fits(weights[i]) ? 0 : 1;
  return count;
}

template <typename T>
Report check_weights(const SampleTokens<T>& a) {
  if (a.weights == nullptr) return {};
  const int64_t count = for_isa<count_unfit>(a.weights, a.genes);
  if (count == 0) return {};
  const float* first = std::find_if_not(a.weights, a.weights + a.genes, weight_fits);
  return {kTokensWeight, first - a.weights, 0, 0, static_cast<double>(*first), count};
}

// ---- keys -----------------------------------------------------------------------------------

// Words to keys E/w in place. Positive floats are ordered as their bits.
KN_INLINE void weigh(const float* weights, int64_t n, uint32_t* words) {
  for (int64_t i = 0; i < n; ++i) {
    const float w = weights[i];
    const uint32_t key = float_bits(exponential(words[i]) / w);
    words[i] = w > 0.0f ? key : kEveryKey;
  }
}
KN_INLINE void weigh_listed(const float* weights, const int32_t* genes, int64_t n,
                            uint32_t* words) {
  for (int64_t i = 0; i < n; ++i) words[i] = float_bits(exponential(words[i]) / weights[genes[i]]);
}

template <typename T>
PhiloxCounter row_counter(const SampleTokens<T>& a, int64_t b) {
  const int64_t id = a.cell_ids == nullptr ? b : a.cell_ids[b];
  return philox_row_counter(id, a.stream, read_seed(a.seed).step);
}

// Lists the candidates among all genes whose key is at most `bound`.
template <typename T>
void sweep(const SampleTokens<T>& a, int64_t b, const uint8_t* mask, uint32_t bound,
           TokenScratch<T>& s) {
  const PhiloxKey key = philox_key(read_seed(a.seed).key);
  const PhiloxCounter counter = row_counter(a, b);
  alignas(64) uint32_t words[kNoiseColumns];
  s.list.start(kNoiseColumns);
  for (int64_t base = 0; base < a.genes; base += kNoiseColumns) {
    const int64_t count = std::min(kNoiseColumns, a.genes - base);
    philox_block(key, counter, static_cast<uint32_t>(base / 4), words);
    if (a.weights != nullptr) for_isa<weigh>(a.weights + base, count, words);
    s.list.grow(kNoiseColumns);
    append_at_most(words, mask == nullptr ? nullptr : mask + base, count,
                   static_cast<int32_t>(base), bound, s.list);
  }
}

// ---- which genes ----------------------------------------------------------------------------

// Up to K candidates of a list in which there are no more, or too many because of a wrong count.
int64_t take_all(const KeyList& list, int64_t k, int32_t* genes) {
  const int64_t count = std::min(list.count, k);
  std::copy(list.genes.begin(), list.genes.begin() + count, genes);
  return count;
}

// Every observed gene of positive weight.
template <typename T>
int64_t all_observed(const SampleTokens<T>& a, const uint8_t* mask, int32_t* genes) {
  int64_t count = 0;
  for (int64_t j = 0; j < a.genes && count < a.n_tokens; ++j) {
    genes[count] = static_cast<int32_t>(j);
    count += (mask == nullptr || mask[j] != 0) & (a.weights == nullptr || a.weights[j] > 0.0f);
  }
  return count;
}

// After a sweep up to a bound whose bracket missed the K-th smallest word: sweeps up to higher ones
// until the list holds it, or all there are.
template <typename T>
int64_t draw_missed(const SampleTokens<T>& a, int64_t b, const uint8_t* mask, uint32_t bound,
                    int32_t* genes, TokenScratch<T>& s) {
  const int64_t k = a.n_tokens;
  while (s.list.count < k && bound != kEveryKey) {
    bound = bound > kEveryKey / 4 ? kEveryKey : 4 * bound;
    sweep(a, b, mask, bound, s);
  }
  if (s.list.count <= k) return take_all(s.list, k, genes);
  take_smallest(s.list, k, {0, bound}, s.band, genes);
  return k;
}

template <typename T, typename C>
int64_t draw_observed(const SampleTokens<T>& a, int64_t b, const TokenRow<T, C>& row,
                      int32_t* genes, TokenScratch<T>& s) {
  const int64_t k = a.n_tokens, n = a.panel_id == nullptr ? a.genes : a.panel_counts[row.panel];
  if (k >= n) return all_observed(a, row.mask, genes);
  const bool weighted = a.weights != nullptr;
  const Bracket expected = weighted ? s.brackets[row.panel] : uniform_bracket(k, n);
  if (expected.high > 0) {
    sweep(a, b, row.mask, expected.high, s);
    if (take_smallest(s.list, k, expected, s.band, genes)) return k;
  }
  if (!weighted) return draw_missed(a, b, row.mask, expected.high, genes, s);
  // Nothing is known yet, or the K-th smallest lies elsewhere.
  const Bracket every{0, kInfiniteKey};
  sweep(a, b, row.mask, every.high, s);
  if (s.list.count <= k) return take_all(s.list, k, genes);
  Bracket* next = &s.brackets[row.panel];
  const Bracket narrow = sampled_bracket(s.list, k, s.band);
  if (!take_smallest(s.list, k, narrow, s.band, genes, s.list.count, next))
    take_smallest(s.list, k, every, s.band, genes, s.list.count, next);
  return k;
}

// Lists a row's own candidates; their keys are not known yet.
template <typename T, typename C>
void list_expressed(const SampleTokens<T>& a, const TokenRow<T, C>& row, KeyList& list) {
  list.start(row.stored);
  int32_t* genes = list.genes.data();
  int64_t n = 0;
  for (int64_t i = 0; i < row.stored; ++i) {
    const int64_t j = row.columns[i];
    genes[n] = static_cast<int32_t>(j);
    n += (row.values[i] != T(0)) & (row.mask == nullptr || row.mask[j] != 0) &
         (a.weights == nullptr || a.weights[j] > 0.0f);
  }
  list.count = n;
}

template <typename T, typename C>
int64_t draw_expressed(const SampleTokens<T>& a, int64_t b, const TokenRow<T, C>& row,
                       int32_t* genes, TokenScratch<T>& s) {
  KeyList& list = s.list;
  list_expressed(a, row, list);
  const int64_t k = a.n_tokens;
  if (list.count <= k) return take_all(list, k, genes);
  const PhiloxKey key = philox_key(read_seed(a.seed).key);
  const PhiloxCounter counter = row_counter(a, b);
  if (4 * list.count < a.genes) {
    philox_columns(key, counter, list.genes.data(), list.count, list.keys.data());
  } else {
    s.words.resize(a.genes + kNoiseColumns);
    for (int64_t base = 0; base < a.genes; base += kNoiseColumns)
      philox_block(key, counter, static_cast<uint32_t>(base / 4), s.words.data() + base);
    for (int64_t i = 0; i < list.count; ++i) list.keys[i] = s.words[list.genes[i]];
  }
  const bool weighted = a.weights != nullptr;
  if (weighted) for_isa<weigh_listed>(a.weights, list.genes.data(), list.count, list.keys.data());
  const Bracket every{0, kEveryKey};
  const Bracket expected =
      weighted ? sampled_bracket(list, k, s.band) : uniform_bracket(k, list.count);
  if (!take_smallest(list, k, expected, s.band, genes))
    take_smallest(list, k, every, s.band, genes);
  return k;
}

// ---- rows -----------------------------------------------------------------------------------

// Returns how many tokens cell b has.
template <typename T, typename C>
int64_t sample_row(const SampleTokens<T>& a, int64_t b, TokenScratch<T>& s) {
  const int64_t first = a.indptr[b], panel = a.panel_id == nullptr ? 0 : a.panel_id[b];
  const TokenRow<T, C> row{static_cast<const C*>(a.columns) + first, a.values + first,
                           a.indptr[b + 1] - first, panel,
                           a.panel_id == nullptr ? nullptr : a.panel_mask + panel * a.genes};
  int32_t* genes = a.gene_ids + b * a.n_tokens;
  T* tokens = a.tokens + b * a.n_tokens;
  const int64_t n =
      a.expressed ? draw_expressed(a, b, row, genes, s) : draw_observed(a, b, row, genes, s);
  fill_values(a, b, row, genes, n, tokens, s.counts.data());
  std::fill(genes + n, genes + a.n_tokens, -1);
  std::fill(tokens + n, tokens + a.n_tokens, T(0));
  return n;
}

// Moves the rows together; offsets[b + 1] is the length of row b, and becomes where row b + 1
// begins.
template <typename T>
void close_gaps(const SampleTokens<T>& a) {
  a.offsets[0] = 0;
  for (int64_t b = 0; b < a.rows; ++b) {
    const int64_t n = a.offsets[b + 1], from = b * a.n_tokens, to = a.offsets[b];
    if (from != to) {
      std::memmove(a.gene_ids + to, a.gene_ids + from, n * sizeof(int32_t));
      std::memmove(a.tokens + to, a.tokens + from, n * sizeof(T));
    }
    a.offsets[b + 1] = to + n;
  }
  const int64_t used = a.offsets[a.rows], room = a.rows * a.n_tokens;
  std::fill(a.gene_ids + used, a.gene_ids + room, -1);
  std::fill(a.tokens + used, a.tokens + room, T(0));
}

template <typename T, typename C>
Report sample_rows(const SampleTokens<T>& a, int threads) {
  Report first;
  int64_t faults[kTokensFaults] = {};
  const bool alone = a.rows * a.genes < kSerialWork;
  const int team = alone ? 1 : static_cast<int>(std::min<int64_t>(threads, a.rows));
  Rescue rescue;
#pragma omp parallel num_threads(team) if (team > 1)
  {
    TokenScratch<T>& s = scratch_of_thread<TokenScratch<T>>();
    rescue.run([&] {
      const int64_t table = a.genes > kTableGenes ? 0 : a.genes;
      if (static_cast<int64_t>(s.counts.size()) < table) s.counts.resize(table);
      s.brackets.assign(std::max<int64_t>(1, a.panels), {0, 0});
    });
#pragma omp for schedule(dynamic, 4)
    for (int64_t b = 0; b < a.rows; ++b)
      rescue.run([&] {
        const Report report = check<T, C>(a, b);
        if (report.fault == 0) {
          const int64_t n = sample_row<T, C>(a, b, s);
          if (a.offsets != nullptr) a.offsets[b + 1] = n;
          return;
        }
#pragma omp critical
        {
          ++faults[report.fault];
          if (first.fault == 0 || b < first.row) first = report;
        }
      });
    if (a.genes > kKeptGenes) s = TokenScratch<T>();
  }
  rescue.rethrow();
  first.count = faults[first.fault];
  return first;
}

}  // namespace

template <typename T>
Report sample_tokens(const SampleTokens<T>& a, int threads) {
  Report report = check_weights(a);
  if (report.fault != 0) return report;
  report =
      a.wide_columns ? sample_rows<T, int64_t>(a, threads) : sample_rows<T, int32_t>(a, threads);
  if (report.fault == 0 && a.offsets != nullptr) close_gaps(a);
  return report;
}

template Report sample_tokens<float>(const SampleTokens<float>&, int);
template Report sample_tokens<double>(const SampleTokens<double>&, int);

}  // namespace kernomics
