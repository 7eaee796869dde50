// The parameters of gumbel_topk, and the constants that Python and all kernels agree on. Row-major,
// contiguous unless a stride is given.
#pragma once

#include <cstdint>

#include "fields.h"

namespace kernomics {

enum Relaxation : int { kSoftSort = 0, kNeuralSort = 1, kSoftmax = 2 };

// What is wrong with the data of a row.
enum RowFault : int { kRowFine = 0, kRowNaN = 1, kRowForced = 2, kRowUsable = 3, kRowId = 4 };

// Genes whose Γ lies below this are left out of a limited reach.
constexpr double kReachFloor = 0x1p-24;

// y = scores + scale·g; no noise for scale 0, and then seed and row_ids are not read.
template <typename T>
struct GumbelTopk {
  int kind;         // ScalarKind of T
  const T* scores;  // [rows, genes], rows `row_stride` apart
  int64_t row_stride, rows, genes, k;
  double noise_scale;
  const int64_t* seed;     // (key, step)
  const int64_t* row_ids;  // [rows], or null for 0 … rows − 1
  uint32_t stream;         // of random words
  double tau;
  int relaxation;
  int64_t reach;          // capacity of grad_indices, 0 for none
  T* y;                   // [rows, genes] or null
  T* mask;                // [rows, genes]; on CUDA NaN in rows with a fault
  int64_t* indices;       // [rows, k], in range in every row
  int64_t* grad_indices;  // [rows, reach]
  int32_t* faults;        // [rows, 2]: a RowFault and its count; null on the CPU
  KN_FIELDS(kind, scores, row_stride, rows, genes, k, noise_scale, seed, row_ids, stream, tau,
            relaxation, reach, y, mask, indices, grad_indices, faults)
};

// Γ(y), or uᵀ ∂Γ/∂y, at the kept y and indices.
template <typename T>
struct RelaxedTopk {
  int kind;                // ScalarKind of T
  const T* y;              // [rows, genes]
  const int64_t* indices;  // [rows, k]
  const T* u;              // [rows, genes]; null for Γ
  int64_t rows, genes, k;
  double tau;
  int relaxation;
  T* out;  // [rows, genes]
  KN_FIELDS(kind, y, indices, u, rows, genes, k, tau, relaxation, out)
};

}  // namespace kernomics
