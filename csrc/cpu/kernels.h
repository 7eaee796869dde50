// The CPU kernels: plain functions on pointers and sizes, called by bindings_cpu.cpp.
// T is float or double. Row-major, contiguous unless a stride is given.
#pragma once

#include <cstdint>

namespace kernomics {

// What is wrong with the data of the first bad row.
enum RowFault : int { kRowFine = 0, kRowNaN = 1, kRowForced = 2, kRowUsable = 3 };

struct RowReport {
  int64_t row = -1;
  int fault = kRowFine;
  int64_t count = 0;  // NaN scores, forced genes or usable genes
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

}  // namespace kernomics
