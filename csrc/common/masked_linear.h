// The parameters of masked_linear. T is the type of all numbers; void on CUDA, where kinds name it.
// Row-major, contiguous unless a stride is given.
#pragma once

#include <cstdint>

#include "fields.h"

namespace kernomics {

// x [rows, genes]: CSR, or dense where `indptr` is null.
template <typename T>
struct LinearInput {
  const T* values;
  int values_kind;  // ScalarKind; on the CPU the weight's
  const int64_t* indptr;
  const void* columns;  // int64 if `wide_columns`, else int32
  bool wide_columns;
  int64_t stored;                     // CSR: length of `columns`
  int64_t row_stride, column_stride;  // dense
  int64_t rows, genes;
  KN_FIELDS(values, values_kind, indptr, columns, wide_columns, stored, row_stride, column_stride,
            rows, genes)
};

// Sums, the mask and the bias are float64 for a float64 weight, else float32. The values of x are
// of that kind or of the weight's.
template <typename T>
struct LinearLayer {
  LinearInput<T> x;
  const T* mask;  // [genes], `mask_stride` apart
  int64_t mask_stride;
  const int64_t* chosen;  // [k] ascending
  int64_t k;
  const int64_t* reached;  // [reach] ascending, −1 at the end; null for every gene
  int64_t reach;
  const T* weight;  // [genes, outputs], rows `weight_stride` apart
  int weight_kind;  // ScalarKind
  int64_t weight_stride, outputs;
  KN_FIELDS(x, mask, mask_stride, chosen, k, reached, reach, weight, weight_kind, weight_stride,
            outputs)
};

template <typename T>
struct LinearForward {
  LinearLayer<T> layer;
  const T* bias;  // [outputs], or null
  T* y;           // [rows, outputs]; null on the CPU: the arguments are only checked
  KN_FIELDS(layer, bias, y)
};

template <typename T>
struct LinearBackward {
  LinearLayer<T> layer;
  const T* delta;  // [rows, outputs], rows `delta_stride` apart
  int64_t delta_stride;
  T* grad_mask;    // [genes], or null: not wanted, as the next two
  T* grad_weight;  // [genes, outputs], or if `compact` [k, outputs]: the chosen genes' rows
  bool compact;    // on CUDA false
  T* grad_bias;    // [outputs]; on CUDA null
  KN_FIELDS(layer, delta, delta_stride, grad_mask, grad_weight, compact, grad_bias)
};

}  // namespace kernomics
