// The CUDA entry points of poisson_nll: plain functions on device addresses, sizes and a stream,
// called by bindings_cuda_poisson.cpp. As in kernels.h nothing allocates or synchronises.
//
// The caller gives units, weights and sums, float64 of [rows], [rows] and [rows, segments],
// prepares them once, sweeps over one or more strips of genes, and reduces the sums at the end.
#pragma once

#include "kernels.h"

namespace kernomics {

// The target rates y [rows, genes] and which genes count.
struct CudaPoissonArgs {
  int64_t rows, genes;
  int kind;               // TargetKind
  const void* values;     // [rows, genes] with rows `row_stride` apart, or of CSR [stored]
  int values_kind;        // ScalarKind; CSR: that of the sums
  const int64_t* indptr;  // null for a dense target
  const void* columns;    // int64 if `wide_columns`, else int32
  bool wide_columns;
  int64_t stored, row_stride;
  const double* library;  // [rows], or null for the sums of the rows
  const int32_t* panel;   // [rows], or null: all genes count
  const uint8_t* mask;    // [panels, genes]
  const int64_t* counts;  // [panels] observed genes
  int64_t panels;
  int activation;  // Activation
  double target_sum, eps;
  bool full;  // adds Stirling's term
};

enum CudaPoissonReduction : int {
  kCudaReduceMean = 0,   // of each cell over its observed genes, then over cells
  kCudaReduceGenes = 1,  // Σ over Σ observed genes
  kCudaReduceSum = 2,
  kCudaReduceCell = 3,  // of each cell over its observed genes
};

// `count` genes from `first` on: null pointers for what is not wanted. Sums, and what is said to be
// of their kind, are float64 for float64 logits, else float32.
struct CudaPoissonStrip {
  int64_t first, count;
  const void* logits;
  int logits_kind;  // kFloat32, kFloat64 or kBFloat16
  int64_t logits_stride;
  int64_t segments;  // parts of a row, each with a sum and a block of its own
  double* sums;      // [rows, segments], to which the losses are added
  void* loss;        // [rows, count] of the sums' kind, each loss
  void* gradient;    // of the logits' kind: weights_b · upstream · dloss/dlogit; may be the logits
  int64_t gradient_stride;
  const void* upstream;  // [rows, count] of the sums' kind, or null for 1
  int64_t upstream_stride;
};

// Writes units = L/library and weights, what a row's sum counts in the reduction, and zeros to
// sums. A row whose panel, library or row pointers are at fault gets the weight NaN.
void poisson_prepare(const CudaPoissonArgs& args, int reduction, int64_t segments, double* units,
                     double* weights, double* sums, CudaStream stream);

void poisson_sweep(const CudaPoissonArgs& args, const CudaPoissonStrip& strip, const double* units,
                   const double* weights, CudaStream stream);

// out [rows] = weights · Σ sums for `by_cell`, else the one number Σ_b of it; float64 or float32.
void poisson_finish(int64_t rows, int64_t segments, const double* sums, const double* weights,
                    bool by_cell, int out_kind, void* out, CudaStream stream);

// to = from · factor, with one factor on the device, float64 for float64, else float32.
void poisson_scale(const void* from, void* to, int64_t count, int kind, const void* factor,
                   CudaStream stream);

}  // namespace kernomics
