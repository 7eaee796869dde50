// The CPU kernels: plain functions on pointers and sizes, called by bindings_cpu.cpp.
// T is float or double. Row-major, contiguous unless a stride is given.
#pragma once

#include <cstdint>

#include "../common/gumbel_topk.h"

namespace kernomics {

// What is wrong with the data of the first bad row.
struct RowReport {
  int64_t row = -1;
  int fault = kRowFine;
  int64_t count = 0;  // NaN scores, forced genes, usable genes, or the row id
  int64_t first = 0;  // the first NaN gene
};

// How the randomness of a call is addressed; see common/philox.h.
struct NoiseAddress {
  int64_t seed, step;
  uint32_t stream;
  const int64_t* row_ids;  // [rows], or null for 0 … rows − 1
};

// y = scores + scale·g; no noise for scale 0, and then `noise` is not read.
template <typename T>
struct GumbelTopkArgs {
  const T* scores;  // [rows, genes], rows `row_stride` apart
  int64_t row_stride, rows, genes, k;
  double noise_scale;
  NoiseAddress noise;
  double tau;
  int relaxation;
  int64_t reach;          // capacity of grad_indices, 0 for none
  T* y;                   // [rows, genes] or null
  T* mask;                // [rows, genes]
  int64_t* indices;       // [rows, k]
  int64_t* grad_indices;  // [rows, reach]
  int threads;
};

template <typename T>
RowReport gumbel_topk_forward(const GumbelTopkArgs<T>& args);

// grad [rows, genes] = uᵀ ∂Γ/∂y at the kept y and indices [rows, k].
template <typename T>
void gumbel_topk_backward(const T* y, const int64_t* indices, const T* u, int64_t rows,
                          int64_t genes, int64_t k, double tau, int relaxation, T* grad,
                          int threads);

// gamma [rows, genes] = Γ(y).
template <typename T>
void gumbel_topk_relaxed(const T* y, const int64_t* indices, int64_t rows, int64_t genes, int64_t k,
                         double tau, int relaxation, T* gamma, int threads);

// What is wrong with the arguments of masked_linear.
enum LinearFault : int {
  kLinearFine = 0,
  kLinearIndptr = 1,       // row pointers fall, or leave the stored entries
  kLinearColumn = 2,       // a column outside [0, genes)
  kLinearOrder = 3,        // columns of a row do not ascend
  kLinearChosenRange = 4,  // `chosen` outside [0, genes)
  kLinearChosenOrder = 5,  // `chosen` does not ascend
  kLinearReachRange = 6,   // the same of `reached`
  kLinearReachOrder = 7,
};

struct LinearReport {
  int fault = kLinearFine;
  int64_t row = 0;       // the first bad row of x
  int64_t position = 0;  // in the row, or in the list of genes
  int64_t value = 0;     // what was found there
  int64_t count = 0;     // bad rows
};

// x [rows, genes]: CSR, or dense where `indptr` is null.
template <typename T>
struct LinearInput {
  const T* values;
  const int64_t* indptr;
  const void* columns;  // int64 if `wide_columns`, else int32
  bool wide_columns;
  int64_t stored;                     // CSR: length of `columns`
  int64_t row_stride, column_stride;  // dense
  int64_t rows, genes;
};

template <typename T>
struct LinearArgs {
  LinearInput<T> x;
  const T* mask;          // [genes]
  const int64_t* chosen;  // [k] ascending
  int64_t k;
  const int64_t* reached;  // [reach] ascending, −1 at the end; null for every gene
  int64_t reach;
  const T* weight;  // [genes, outputs], rows `weight_stride` apart
  int64_t weight_stride, outputs;
  int threads;
};

template <typename T>
struct LinearGradients {
  const T* delta;  // [rows, outputs], rows `delta_stride` apart
  int64_t delta_stride;
  T* mask;    // [genes], or null: not wanted, as the next two
  T* weight;  // [genes, outputs]
  T* bias;    // [outputs]
};

// y [rows, outputs] = Σ_{j chosen} mask_j x_j weight_j + bias; bias may be null. With a null y the
// arguments are only checked.
template <typename T>
LinearReport masked_linear_forward(const LinearArgs<T>& args, const T* bias, T* y);

template <typename T>
void masked_linear_backward(const LinearArgs<T>& args, const LinearGradients<T>& gradients);

}  // namespace kernomics
