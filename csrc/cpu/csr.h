// What may be wrong with a row of compressed sparse rows, checked before it is read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "isa.h"
#include "report.h"

namespace kernomics {

enum CsrFault : int {
  kCsrFine = 0,
  kCsrIndptr = 1,  // row pointers fall, or leave the stored entries
  kCsrColumn = 2,  // a column outside [0, columns)
  kCsrOrder = 3,   // the columns of a row do not ascend
};

// The first fault of a row whose pointers are `indptr[0]` and `indptr[1]`: its position in the row
// and the column there; of kCsrIndptr the entries at which the row would begin and end.
template <typename C>
KN_INLINE Report check_csr_row(const int64_t* indptr, const C* columns, int64_t stored,
                               int64_t n_columns) {
  if (indptr[0] < 0 || indptr[1] < indptr[0] || indptr[1] > stored)
    return {kCsrIndptr, 0, indptr[0], indptr[1], 0, 1};
  const C* row = columns + indptr[0];
  const int64_t n = indptr[1] - indptr[0];
  if (n == 0) return {};
  int bad = row[0] < 0 || row[n - 1] >= n_columns;
  for (int64_t i = 1; i < n; ++i) bad |= row[i] <= row[i - 1];
  if (!bad) return {};
  for (int64_t i = 0; i < n; ++i) {
    if (row[i] < 0 || row[i] >= n_columns) return {kCsrColumn, 0, i, row[i], 0, 1};
    if (i > 0 && row[i] <= row[i - 1]) return {kCsrOrder, 0, i, row[i], 0, 1};
  }
  return {};
}

// The first entry of a row at or after a column.
template <typename C>
inline int64_t seek_entry(const int64_t* indptr, const C* columns, int64_t row, int64_t column) {
  const C *begin = columns + indptr[row], *end = columns + indptr[row + 1];
  return std::lower_bound(begin, end, static_cast<C>(column)) - columns;
}

}  // namespace kernomics
