// poisson_nll on the CPU: activation, loss and gradient in one sweep over the logits.
//
// A row is taken in blocks of 4 KB that stay in the first cache: the block's target rates y (of a
// CSR row: the rate of a zero everywhere, then the non-zeros scattered over it), losses and
// derivatives from common/activation.h, then the sum of the losses and the scaled gradient.
// Operations: two exponentials and a division an element, one more exponential for a dense log1p
// target. Bytes: logits and a dense target once, the gradient once; that is the floor.
// Sums run in 16 lanes per block, blocks are added in double. A row belongs to one thread: the same
// bits for any number of threads, and for a CSR target and the same one dense.
// `linear_poisson_nll` calls the sweep on strips of genes.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "../common/activation.h"
#include "csr.h"
#include "isa.h"
#include "kernels.h"
#include "lanes.h"
#include "pages.h"

namespace kernomics {
namespace {

template <typename T>
constexpr int64_t kBlock = 4096 / sizeof(T);
template <typename T>
constexpr T kMostRate = sizeof(T) == 8 ? T(1e300) : T(1e30);  // times any slope it is finite
constexpr int64_t kSerialWork = int64_t(1) << 13;  // elements too few to wake other threads for

// ---- one row --------------------------------------------------------------------------------

template <typename T>
using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

// |x| as an integer, in the order of the numbers; NaN above all.
template <typename T>
KN_INLINE Bits<T> magnitude(T x) {
  return __builtin_bit_cast(Bits<T>, x) & (~Bits<T>(0) >> 1);
}

// Whether any of n numbers is NaN or beyond ±most.
template <typename T>
KN_INLINE bool any_beyond(const T* x, int64_t n, T most) {
  Bits<T> top = 0;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, magnitude(x[i]));
  return top > magnitude(most);
}

// y of n stored targets.
template <typename T>
KN_INLINE void rates(int kind, const T* stored, int64_t n, T unit, T* __restrict__ y) {
  if (kind == kTargetLog1p)
    for (int64_t i = 0; i < n; ++i) y[i] = exp_any(stored[i]);
  else if (kind == kTargetCounts)
    for (int64_t i = 0; i < n; ++i) y[i] = T(1) + stored[i] * unit;
  else
    std::copy(stored, stored + n, y);
}

// y of genes [begin, end) of a CSR row, which moves `cursor` on; whether any is beyond kMostRate.
template <typename T, typename C>
KN_INLINE bool csr_rates(const PoissonProblem<T>& a, int64_t* cursor, int64_t stop, int64_t begin,
                         int64_t end, T unit, T* __restrict__ nonzero, T* __restrict__ y) {
  const C* columns = static_cast<const C*>(a.columns);
  const int64_t first = *cursor;
  int64_t last = first;
  while (last < stop && columns[last] < end) ++last;
  *cursor = last;
  std::fill(y, y + (end - begin), a.target_kind == kTargetRate ? T(0) : T(1));
  rates(a.target_kind, a.values + first, last - first, unit, nonzero);
  for (int64_t i = first; i < last; ++i) y[columns[i] - begin] = nonzero[i - first];
  return any_beyond(nonzero, last - first, kMostRate<T>);
}

// The constants come by value: only then does gcc take the selections for harmless and vectorise.
// Two loops, since one exponential behind the other makes a chain too long for a processor to see
// several at once. Between them `loss` and `derivative` hold the rates and their slopes.
template <int A, typename T>
KN_INLINE void points(const T* z, const T* y, int64_t n, PoissonLaw<T> law, T* __restrict__ loss,
                      T* __restrict__ derivative) {
  for (int64_t i = 0; i < n; ++i) poisson_rate<A>(z[i], law, loss + i, derivative + i);
  for (int64_t i = 0; i < n; ++i)
    poisson_loss<A>(loss[i], derivative[i], y[i], law, loss + i, derivative + i);
}

// The same without the derivative.
template <int A, typename T>
KN_INLINE void losses(const T* z, const T* y, int64_t n, PoissonLaw<T> law, T* __restrict__ loss) {
  for (int64_t i = 0; i < n; ++i) {
    T unused;
    poisson_rate<A>(z[i], law, loss + i, &unused);
  }
  for (int64_t i = 0; i < n; ++i) {
    T unused;
    poisson_loss<A>(loss[i], T(0), y[i], law, loss + i, &unused);
  }
}

template <typename T>
KN_INLINE double block_sum(const T* x, int64_t n) {
  Lanes<T> lanes = Lanes<T>::of(0);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) lanes.add(Lanes<T>::from(x + i));
  T each[kLanes];
  lanes.store(each);
  for (int64_t l = 0; i < n; ++i, ++l) each[l] += x[i];
  return total(each);
}

template <typename T>
KN_INLINE void keep_observed(const uint8_t* observed, int64_t n, T* __restrict__ x) {
  for (int64_t i = 0; i < n; ++i) x[i] = observed[i] != 0 ? x[i] : T(0);
}

// What a row needs besides the call's arguments.
template <typename T>
struct Row {
  int64_t index;
  int64_t cursor;  // CSR: its first entry in the strip
  T unit, weight;
  PoissonLaw<T> law;
};

// What came of a row.
struct Swept {
  double sum = 0;
  bool rate = false, slope = false;  // a target rate, or a derivative, out of bounds
};

template <int A, typename T>
KN_INLINE Swept row_impl(const PoissonProblem<T>& a, const PoissonStrip<T>& s, const Row<T>& row) {
  alignas(64) T y[kBlock<T>], loss[kBlock<T>], derivative[kBlock<T>];
  const PoissonLaw<T> law = row.law;
  const T unit = row.unit, weight = row.weight;
  const int64_t b = row.index;
  int64_t cursor = row.cursor;
  const T* z = s.logits + b * s.logits_stride;
  const uint8_t* observed = nullptr;
  if (a.panel != nullptr) observed = a.mask + a.panel[b] * a.genes + s.first;
  Swept swept;
  for (int64_t base = 0; base < s.count; base += kBlock<T>) {
    const int64_t n = std::min(kBlock<T>, s.count - base), begin = s.first + base;
    // The hardware's prefetchers start anew with every page, which is one block.
    const int64_t ahead = std::min(2 * kBlock<T>, s.count - base);
    for (int64_t j = kBlock<T>; j < ahead; j += kLine<T>) __builtin_prefetch(z + base + j);
    bool beyond = false;
    if (a.indptr == nullptr) {
      const T* stored = a.values + b * a.row_stride + begin;
      for (int64_t j = kBlock<T>; j < ahead; j += kLine<T>) __builtin_prefetch(stored + j);
      rates(a.target_kind, stored, n, unit, y);
      beyond = any_beyond(y, n, kMostRate<T>);
    } else if (a.wide_columns) {
      beyond = csr_rates<T, int64_t>(a, &cursor, a.indptr[b + 1], begin, begin + n, unit, loss, y);
    } else {
      beyond = csr_rates<T, int32_t>(a, &cursor, a.indptr[b + 1], begin, begin + n, unit, loss, y);
    }
    if (beyond) {
      if (observed != nullptr) keep_observed(observed + base, n, y);
      swept.rate = swept.rate || any_beyond(y, n, kMostRate<T>);
    }
    if (s.gradient != nullptr)
      points<A>(z + base, y, n, law, loss, derivative);
    else
      losses<A>(z + base, y, n, law, loss);
    if (a.full)
      for (int64_t i = 0; i < n; ++i) loss[i] += stirling(y[i]);
    if (observed != nullptr) keep_observed(observed + base, n, loss);
    swept.sum += block_sum(loss, n);
    if (s.loss != nullptr) std::copy(loss, loss + n, s.loss + b * s.count + base);
    if (s.gradient == nullptr) continue;
    if (observed != nullptr) keep_observed(observed + base, n, derivative);
    if constexpr (A == kSoftplus ||
                  A == kIdentity)  // y/(λ + ε) may overflow where the loss does not
      swept.slope = swept.slope || any_beyond(derivative, n, std::numeric_limits<T>::max());
    if (s.upstream != nullptr) {
      const T* upstream = s.upstream + b * s.upstream_stride + base;
      for (int64_t i = 0; i < n; ++i) derivative[i] *= upstream[i];
    }
    T* out = s.gradient + b * s.gradient_stride + base;
    for (int64_t i = 0; i < n; ++i) out[i] = derivative[i] * weight;
  }
  return swept;
}

template <typename T>
KN_INLINE Swept sweep_row(const PoissonProblem<T>& a, const PoissonStrip<T>& s, const Row<T>& row) {
  switch (a.activation) {
    case kRectifiedTanh:
      return row_impl<kRectifiedTanh>(a, s, row);
    case kRelu:
      return row_impl<kRelu>(a, s, row);
    case kClampedRelu:
      return row_impl<kClampedRelu>(a, s, row);
    case kExp:
      return row_impl<kExp>(a, s, row);
    case kSoftplus:
      return row_impl<kSoftplus>(a, s, row);
    default:
      return row_impl<kIdentity>(a, s, row);
  }
}

// ---- before the sweep -----------------------------------------------------------------------

template <typename T>
Report prepare_row(const PoissonProblem<T>& a, int64_t b, double* unit, double* genes) {
  *unit = 0;
  *genes = static_cast<double>(a.genes);
  if (a.indptr != nullptr) {
    Report found =
        a.wide_columns
            ? check_csr_row(a.indptr + b, static_cast<const int64_t*>(a.columns), a.stored, a.genes)
            : check_csr_row(a.indptr + b, static_cast<const int32_t*>(a.columns), a.stored,
                            a.genes);
    found.row = b;
    if (found.fault != kCsrFine) return found;
  }
  if (a.panel != nullptr) {
    const int64_t panel = a.panel[b];
    if (panel < 0 || panel >= a.panels) return {kPoissonPanel, b, 0, panel, 0, 1};
    *genes = static_cast<double>(a.counts[panel]);
  }
  if (a.target_kind != kTargetCounts) return {};
  double library = 0;
  if (a.library != nullptr) {
    library = a.library[b];
  } else {
    const T* values = a.values + (a.indptr != nullptr ? a.indptr[b] : b * a.row_stride);
    const int64_t n = a.indptr != nullptr ? a.indptr[b + 1] - a.indptr[b] : a.genes;
    for (int64_t i = 0; i < n; ++i) library += static_cast<double>(values[i]);
  }
  if (!(library >= 0) || std::isinf(library)) return {kPoissonLibrary, b, 0, 0, library, 1};
  if (library > 0) *unit = a.target_sum / library;
  if (*unit > static_cast<double>(std::numeric_limits<T>::max())) {
    const T* values = a.values + (a.indptr != nullptr ? a.indptr[b] : b * a.row_stride);
    const int64_t n = a.indptr != nullptr ? a.indptr[b + 1] - a.indptr[b] : a.genes;
    if (std::any_of(values, values + n, [](T x) { return x != T(0); }))
      return {kPoissonRate, b, 0, 0, 0, 1};
    *unit = 0;
  }
  return {};
}

// Whether an observed logit of a row is NaN or infinite.
template <typename T>
bool odd_logits(const PoissonProblem<T>& a, const PoissonStrip<T>& s, int64_t b) {
  const T* z = s.logits + b * s.logits_stride;
  const uint8_t* observed = nullptr;
  if (a.panel != nullptr) observed = a.mask + a.panel[b] * a.genes + s.first;
  for (int64_t i = 0; i < s.count; ++i)
    if ((observed == nullptr || observed[i] != 0) && !std::isfinite(z[i])) return true;
  return false;
}

template <typename T>
int team_size(const PoissonProblem<T>& a, int threads, int64_t elements) {
  return elements < kSerialWork ? 1 : static_cast<int>(std::min<int64_t>(threads, a.rows));
}

}  // namespace

template <typename T>
Report poisson_prepare(const PoissonPrepare<T>& p, int threads) {
  const PoissonProblem<T>& a = p.problem;
  const int reduction = p.reduction;
  double *units = p.units, *weights = p.weights;
  std::fill(p.sums, p.sums + a.rows * p.segments, 0.0);
  Report report;
  const int team = team_size(a, threads, a.indptr != nullptr ? a.stored : a.rows * a.genes);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t b = 0; b < a.rows; ++b) {
    Report found = prepare_row(a, b, units + b, weights + b);
    if (found.fault == 0) continue;
#pragma omp critical
    keep_first(report, found);
  }
  double genes = 0;
  for (int64_t b = 0; b < a.rows; ++b) genes += weights[b];
  for (int64_t b = 0; b < a.rows; ++b) {
    const double mean = weights[b] > 0 ? 1 / weights[b] : 0;  // a mean of nothing is 0
    if (reduction == kReduceMean) weights[b] = mean / static_cast<double>(a.rows);
    if (reduction == kReduceGenes) weights[b] = genes > 0 ? 1 / genes : 0;
    if (reduction == kReduceSum) weights[b] = 1;
    if (reduction == kReduceCell) weights[b] = mean;
  }
  return report;
}

template <typename T>
Report poisson_sweep(const PoissonSweep<T>& p, int threads) {
  const PoissonProblem<T>& a = p.problem;
  const PoissonStrip<T>& s = p.strip;
  const PoissonLaw<T> law = poisson_law<T>(a.target_sum, a.eps);
  for (T* out : {s.gradient, s.loss})
    if (out != nullptr && out != s.logits)
      prefer_huge_pages(out, a.rows * s.count * static_cast<int64_t>(sizeof(T)));
  Report report;
  const int team = team_size(a, threads, a.rows * s.count);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t b = 0; b < a.rows; ++b) {
    Row<T> row{b, 0, static_cast<T>(p.units[b]), static_cast<T>(p.weights[b]), law};
    if (a.indptr != nullptr)
      row.cursor = a.wide_columns
                       ? seek_entry(a.indptr, static_cast<const int64_t*>(a.columns), b, s.first)
                       : seek_entry(a.indptr, static_cast<const int32_t*>(a.columns), b, s.first);
    const Swept swept = for_isa<sweep_row<T>>(a, s, row);
    s.sums[b] += swept.sum;
    if (std::isfinite(swept.sum) && !swept.rate && !swept.slope) continue;
    // Where the gradient was written over the logits the caller must see to a loss that is not
    // finite.
    const bool passed_on =
        !std::isfinite(swept.sum) && (s.gradient == s.logits || odd_logits(a, s, b));
    if (!swept.rate && passed_on) continue;
#pragma omp critical
    keep_first(report, {swept.rate ? kPoissonRate : kPoissonLoss, b, 0, 0, 0, 1});
  }
  return report;
}

#define KN_INSTANTIATE(T)                                            \
  template Report poisson_prepare<T>(const PoissonPrepare<T>&, int); \
  template Report poisson_sweep<T>(const PoissonSweep<T>&, int);

KN_INSTANTIATE(float)
KN_INSTANTIATE(double)

}  // namespace kernomics
