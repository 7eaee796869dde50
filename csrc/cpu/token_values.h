// The values of a cell's tokens.
#pragma once

#include <cstdint>

#include "../common/sample_tokens.h"

namespace kernomics {

constexpr int64_t kTableGenes = int64_t(1) << 20;  // more: the row's entries are walked along

// One row of the counts.
template <typename T, typename C>
struct TokenRow {
  const C* columns;
  const T* values;
  int64_t stored;
  int64_t panel;        // 0 without panels
  const uint8_t* mask;  // the panel's, or null
};

// The sum of n numbers, in a fixed order.
double sum_of(const float* x, int64_t n);
double sum_of(const double* x, int64_t n);

// Writes the values of n ascending genes of cell b. `counts` are zeros, one for each gene, and are
// again afterwards; not read for more than kTableGenes.
template <typename T, typename C>
void fill_values(const SampleTokens<T>& a, int64_t b, const TokenRow<T, C>& row,
                 const int32_t* genes, int64_t n, T* out, T* counts);

}  // namespace kernomics
