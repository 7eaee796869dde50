// gumbel_topk on the CPU: y = s + scale·g, the k best genes of each row, a 0/1 mask; backward is
// the gradient of a relaxed mask (relaxation.h).
//
// Forward, one row at a time while it is in cache: Philox and Gumbel in blocks of 256 columns,
// which also yield group maxima; a bound from these, one compaction sweep, selection among the
// survivors (topk.h). Bytes: R·G·T read, 2·R·G·T written (y and mask). About 60 vector instructions
// per 16 genes for the noise, so arithmetic bounds it: about 1.2 ns a gene and thread with AVX-512.
// Threads share rows, or column blocks of the noise when there are fewer rows than threads; no
// result depends on how many there are.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../common/math.h"
#include "isa.h"
#include "kernels.h"
#include "lanes.h"
#include "pages.h"
#include "philox_block.h"
#include "relaxation.h"
#include "scratch.h"
#include "sweeps.h"
#include "topk.h"

namespace kernomics {
namespace {

constexpr int64_t kTask = 32 * kNoiseColumns;  // columns one thread perturbs at a time
static_assert(kNoiseColumns == kChunk, "one block of noise yields one set of group maxima");

// The two logarithms in loops of their own: one behind the other they make a chain too long for a
// processor to see several at once.
template <typename T>
KN_INLINE void add_gumbel(const T* scores, const uint32_t* words, int64_t count, T scale,
                          T* __restrict__ y) {
  alignas(64) float e[kNoiseColumns];
  for (int64_t i = 0; i < kNoiseColumns; ++i) e[i] = exponential(words[i]);
  for (int64_t i = 0; i < count; ++i)
    y[i] = scores[i] + scale * static_cast<T>(gumbel_of_exponential(e[i]));
}

// Columns [begin, end) of a row, begin a multiple of 256; `maxima` are those of the whole row.
// Returns whether all values are finite.
template <typename T>
bool perturb(const T* scores, int64_t begin, int64_t end, T scale, PhiloxKey key, PhiloxCounter row,
             T* y, T* maxima) {
  constexpr int64_t kAhead = 4 * kNoiseColumns;
  alignas(64) uint32_t words[kNoiseColumns];
  bool finite = true;
  for (int64_t base = begin; base < end; base += kNoiseColumns) {
    for (int64_t j = base + kAhead; j < std::min(end, base + kAhead + kNoiseColumns);
         j += kLine<T>) {
      __builtin_prefetch(scores + j);
      __builtin_prefetch(y + j, 1);
    }
    const int64_t count = std::min(kNoiseColumns, end - base);
    if (scale == T(0)) {
      std::copy(scores + base, scores + base + count, y + base);
    } else {
      philox_block(key, row, static_cast<uint32_t>(base / 4), words);
      for_isa<add_gumbel<T>>(scores + base, words, count, scale, y + base);
    }
    T* best = maxima + base / kNoiseColumns * kLanes;
    group_maxima(y + base, count, best);
    finite = all_finite(y + base, count) && finite;
  }
  return finite;
}

struct RowCensus {
  int64_t nan, forced, forbidden;
};

template <typename T>
RowCensus census(const T* y, int64_t n) {
  constexpr T inf = std::numeric_limits<T>::infinity();
  RowCensus c{0, 0, 0};
  for (int64_t j = 0; j < n; ++j) {
    c.nan += y[j] != y[j] ? 1 : 0;
    c.forced += y[j] == inf ? 1 : 0;
    c.forbidden += y[j] == -inf ? 1 : 0;
  }
  return c;
}

template <typename T>
Report check_row(const T* y, int64_t row, int64_t n, int64_t k, const RowCensus& c) {
  if (c.nan > 0) {
    int64_t first = 0;
    while (y[first] == y[first]) ++first;
    return {kRowNaN, row, first, c.nan, 0, 1};
  }
  if (c.forced > k) return {kRowForced, row, 0, c.forced, 0, 1};
  if (n - c.forbidden < k) return {kRowUsable, row, 0, n - c.forbidden, 0, 1};
  return {};
}

// The finite winners of a row, whose storage is `finite`, and what else the relaxations need. Only
// NeuralSort asks how many genes are finite.
template <typename T>
RowProblem<T> row_problem(const T* y, int64_t genes, const int64_t* indices, int64_t k, double tau,
                          int relaxation, Scratch<int64_t>& finite) {
  finite.clear();
  for (int64_t i = 0; i < k; ++i)
    if (!std::isinf(y[indices[i]])) finite.push_back(indices[i]);
  const int64_t chosen = static_cast<int64_t>(finite.size());
  int64_t n = genes;
  if (relaxation == kNeuralSort)
    n -= std::count_if(y, y + genes, [](T v) { return std::isinf(v); });
  return {y, genes, finite.data(), chosen, n, k - chosen, tau};
}

template <typename T>
RowProblem<T> kept_problem(const RelaxedTopk<T>& a, int64_t r, Scratch<int64_t>& finite) {
  return row_problem(a.y + r * a.genes, a.genes, a.indices + r * a.k, a.k, a.tau, a.relaxation,
                     finite);
}

template <typename T>
struct RowScratch {
  RelaxationScratch<T> relaxation;
  Scratch<T> y, maxima;
  Scratch<int64_t> finite;
};

// Calls body(row, scratch) for every row, on up to `threads` threads. Each thread keeps its
// scratch, some 30 bytes a gene.
template <typename T, typename Body>
void for_each_row(int64_t rows, int64_t genes, int threads, Body body) {
  const int team = static_cast<int>(std::min<int64_t>(threads, rows));
  Rescue rescue;
#pragma omp parallel num_threads(team) if (team > 1)
  {
    RowScratch<T>& scratch = scratch_of_thread<RowScratch<T>>();
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) rescue.run([&] { body(r, scratch); });
    if (genes > kKeptGenes) scratch = RowScratch<T>();
  }
  rescue.rethrow();
}

template <typename T>
bool perturb_row(const GumbelTopk<T>& a, int64_t r, int64_t begin, int64_t end, T* y, T* maxima) {
  const int64_t id = a.row_ids == nullptr ? r : a.row_ids[r];
  const Seed seed = read_seed(a.noise_scale == 0 ? nullptr : a.seed);
  return for_isa<perturb<T>>(a.scores + r * a.row_stride, begin, end, static_cast<T>(a.noise_scale),
                             philox_key(seed.key), philox_row_counter(id, a.stream, seed.step), y,
                             maxima);
}

}  // namespace

template <typename T>
Report gumbel_topk_forward(const GumbelTopk<T>& a, int threads) {
  Report report;
  const int64_t bytes = a.rows * a.genes * static_cast<int64_t>(sizeof(T));
  prefer_huge_pages(a.mask, bytes);
  if (a.y != nullptr) prefer_huge_pages(a.y, bytes);
  // Few rows: share their columns among the threads first, into the kept y.
  const bool by_columns = a.rows < threads && a.y != nullptr && a.genes >= 2 * kTask;
  const int64_t groups = group_count(a.genes), tasks = (a.genes + kTask - 1) / kTask;
  Scratch<T> shared_maxima(by_columns ? a.rows * groups : 0);
  Scratch<uint8_t> task_finite(by_columns ? a.rows * tasks : 0);
  if (by_columns) {
#pragma omp parallel for num_threads(threads) collapse(2) schedule(static)
    for (int64_t r = 0; r < a.rows; ++r)
      for (int64_t t = 0; t < tasks; ++t)
        task_finite[r * tasks + t] =
            perturb_row(a, r, t * kTask, std::min(a.genes, (t + 1) * kTask), a.y + r * a.genes,
                        shared_maxima.data() + r * groups);
  }
  for_each_row<T>(a.rows, a.genes, threads, [&](int64_t r, RowScratch<T>& s) {
    s.y.resize(a.y == nullptr ? a.genes : 0);
    s.maxima.resize(by_columns ? 0 : groups);
    T* y = a.y == nullptr ? s.y.data() : a.y + r * a.genes;
    T* maxima = by_columns ? shared_maxima.data() + r * groups : s.maxima.data();
    const auto* flags = task_finite.data() + r * tasks;
    const bool finite = by_columns ? std::all_of(flags, flags + tasks, [](uint8_t f) { return f; })
                                   : perturb_row(a, r, 0, a.genes, y, maxima);
    const RowCensus c = finite ? RowCensus{0, 0, 0} : census(y, a.genes);
    Report found = check_row(y, r, a.genes, a.k, c);
    const int64_t id = a.row_ids == nullptr ? r : a.row_ids[r];
    if (id < 0 || id >= (int64_t(1) << 48)) found = {kRowId, r, 0, id, 0, 1};
    if (found.fault != kRowFine) {
#pragma omp critical
      keep_first(report, found);
      return;
    }
    int64_t* indices = a.indices + r * a.k;
    select_topk(y, a.genes, a.k, maxima, indices, s.relaxation.topk);
    T* mask = a.mask + r * a.genes;
    std::fill(mask, mask + a.genes, T(0));
    for (int64_t i = 0; i < a.k; ++i) mask[indices[i]] = T(1);
    if (a.reach > 0)
      reach_row(a.relaxation, row_problem(y, a.genes, indices, a.k, a.tau, a.relaxation, s.finite),
                a.reach, a.grad_indices + r * a.reach, s.relaxation);
  });
  return report;
}

template <typename T>
void gumbel_topk_backward(const RelaxedTopk<T>& a, int threads) {
  prefer_huge_pages(a.out, a.rows * a.genes * static_cast<int64_t>(sizeof(T)));
  for_each_row<T>(a.rows, a.genes, threads, [&](int64_t r, RowScratch<T>& s) {
    relaxed_row_vjp(a.relaxation, kept_problem(a, r, s.finite), a.u + r * a.genes,
                    a.out + r * a.genes, s.relaxation);
  });
}

template <typename T>
void gumbel_topk_relaxed(const RelaxedTopk<T>& a, int threads) {
  for_each_row<T>(a.rows, a.genes, threads, [&](int64_t r, RowScratch<T>& s) {
    relaxed_row(a.relaxation, kept_problem(a, r, s.finite), a.out + r * a.genes, s.relaxation);
  });
}

#define KN_INSTANTIATE(T)                                            \
  template Report gumbel_topk_forward<T>(const GumbelTopk<T>&, int); \
  template void gumbel_topk_backward<T>(const RelaxedTopk<T>&, int); \
  template void gumbel_topk_relaxed<T>(const RelaxedTopk<T>&, int);

KN_INSTANTIATE(float)
KN_INSTANTIATE(double)

}  // namespace kernomics
