// masked_linear on the CPU: y_b = Σ_{j∈S} m_j x_bj W_j + bias from the non-zeros of x alone. Its
// gradients are in masked_linear_backward.cpp.
//
// A table of flags marks S; every stored index is read once, a hit adds one row of W. Where the
// table would be far longer than x and S, each index is looked up in S instead.
// Operations: a multiply-add for each non-zero of S and output. Bytes: x once; of W a row for each
// such non-zero, from the L2 cache. A cell's terms are added in the genes' order.
// Limits: genes below 2³¹.
#include "masked_linear.h"

#include <omp.h>

#include "csr.h"
#include "isa.h"
#include "sweeps.h"

namespace kernomics {
namespace {

constexpr int64_t kShortTable = int64_t(1) << 22;  // genes: a table of flags is always worth it

// ---- soundness ------------------------------------------------------------------------------

// `count` genes that must ascend within [0, genes); with `padded` −1 may fill the end.
Report check_genes(const int64_t* list, int64_t count, int64_t genes, bool padded) {
  const int range = padded ? kLinearReachRange : kLinearChosenRange;
  const int order = padded ? kLinearReachOrder : kLinearChosenOrder;
  int64_t previous = -1;
  bool ended = false;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t j = list[i];
    if (padded && j == -1) {
      ended = true;
      continue;
    }
    if (j < 0 || j >= genes) return {range, 0, i, j, 0, 1};
    if (ended || j <= previous) return {order, 0, i, j, 0, 1};
    previous = j;
  }
  return {};
}

// ---- forward --------------------------------------------------------------------------------

template <typename T, typename C>
KN_INLINE Report forward_csr_row(const LinearLayer<T>& a, const uint8_t* flags,
                                 const int64_t* indptr, T* __restrict__ y) {
  const C* stored = static_cast<const C*>(a.x.columns);
  const Report found = check_csr_row(indptr, stored, a.x.stored, a.x.genes);
  if (found.fault != kCsrFine || y == nullptr) return found;
  const C* columns = stored + indptr[0];
  const T* values = a.x.values + indptr[0];
  const int64_t n = indptr[1] - indptr[0];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t j = columns[i];
    if (flags != nullptr ? flags[j] & kChosen : std::binary_search(a.chosen, a.chosen + a.k, j))
      axpy(values[i] * a.mask[j * a.mask_stride], a.weight + j * a.weight_stride, a.outputs, y);
  }
  return {};
}

template <typename T>
KN_INLINE Report forward_dense_row(const LinearLayer<T>& a, const T* x, T* __restrict__ y) {
  for (int64_t i = 0; i < a.k; ++i) {
    const int64_t j = a.chosen[i];
    const T value = x[j * a.x.column_stride];
    if (value != T(0))
      axpy(value * a.mask[j * a.mask_stride], a.weight + j * a.weight_stride, a.outputs, y);
  }
  return {};
}

template <typename T>
KN_INLINE Report forward_row(const LinearLayer<T>& a, const uint8_t* flags, int64_t b, T* y) {
  if (a.x.indptr == nullptr)
    return y == nullptr ? Report{} : forward_dense_row(a, a.x.values + b * a.x.row_stride, y);
  return a.x.wide_columns ? forward_csr_row<T, int64_t>(a, flags, a.x.indptr + b, y)
                          : forward_csr_row<T, int32_t>(a, flags, a.x.indptr + b, y);
}

// x[row, gene], 0 where nothing is stored.
template <typename T, typename C>
T stored_value(const LinearInput<T>& x, int64_t row, int64_t gene) {
  const C* columns = static_cast<const C*>(x.columns);
  const int64_t found = seek_entry(x.indptr, columns, row, gene);
  return found < x.indptr[row + 1] && columns[found] == gene ? x.values[found] : T(0);
}

// Whether all that enters a row of y is finite.
template <typename T>
bool finite_terms(const LinearLayer<T>& a, const T* bias, int64_t b) {
  if (bias != nullptr && !all_finite(bias, a.outputs)) return false;
  for (int64_t i = 0; i < a.k; ++i) {
    const int64_t j = a.chosen[i];
    T value;
    if (a.x.indptr == nullptr)
      value = a.x.values[b * a.x.row_stride + j * a.x.column_stride];
    else
      value = a.x.wide_columns ? stored_value<T, int64_t>(a.x, b, j)
                               : stored_value<T, int32_t>(a.x, b, j);
    if (value == T(0)) continue;
    if (!all_finite(&value, 1) || !all_finite(a.mask + j * a.mask_stride, 1) ||
        !all_finite(a.weight + j * a.weight_stride, a.outputs))
      return false;
  }
  return true;
}

}  // namespace

template <typename T>
Report masked_linear_forward(const LinearForward<T>& f, int threads) {
  const LinearLayer<T>& a = f.layer;
  const T* bias = f.bias;
  T* y = f.y;
  Report report = check_genes(a.chosen, a.k, a.x.genes, false);
  if (report.fault == 0) report = check_genes(a.reached, a.reach, a.x.genes, true);
  if (report.fault != 0) return report;
  const bool worth_it = a.x.genes <= std::max(kShortTable, 16 * (a.x.stored + a.k));
  const bool table = a.x.indptr != nullptr && y != nullptr && worth_it;
  const Scratch<uint8_t> flags = table ? flag_genes(a, false) : Scratch<uint8_t>();
  const int team = team_size(a, threads, a.x.rows);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t b = 0; b < a.x.rows; ++b) {
    T* row = y == nullptr ? nullptr : y + b * a.outputs;
    if (row != nullptr && bias != nullptr) std::copy(bias, bias + a.outputs, row);
    if (row != nullptr && bias == nullptr) std::fill(row, row + a.outputs, T(0));
    Report found = for_isa<forward_row<T>>(a, table ? flags.data() : nullptr, b, row);
    if (found.fault == 0 && row != nullptr && !all_finite(row, a.outputs) &&
        finite_terms(a, bias, b))
      found = {kLinearOverflow, b, 0, 0, 0, 1};
    if (found.fault == 0) continue;
    found.row = b;
#pragma omp critical
    keep_first(report, found);
  }
  return report;
}

template Report masked_linear_forward<float>(const LinearForward<float>&, int);
template Report masked_linear_forward<double>(const LinearForward<double>&, int);

}  // namespace kernomics
