// The parameters of the Poisson losses. T is the type of all numbers but sums; void on CUDA, where
// kinds name it. Row-major, contiguous unless a stride is given.
//
// The caller gives units, weights and sums, prepares them once, sweeps over one or more strips of
// genes, and reduces the sums at the end.
#pragma once

#include <cstdint>

#include "fields.h"

namespace kernomics {

enum PoissonReduction : int {
  kReduceMean = 0,   // of each cell over its observed genes, then over cells
  kReduceGenes = 1,  // Σ over Σ observed genes
  kReduceSum = 2,
  kReduceCell = 3,  // of each cell over its observed genes
};

// The target rates y [rows, genes] and which genes count.
template <typename T>
struct PoissonProblem {
  int64_t rows, genes;
  int target_kind;        // TargetKind
  const T* values;        // [rows, genes] with rows `row_stride` apart, or of CSR [stored]
  int values_kind;        // ScalarKind; on the CPU, and of CSR, that of the sums
  const int64_t* indptr;  // null for a dense target
  const void* columns;    // int64 if `wide_columns`, else int32
  bool wide_columns;
  int64_t stored, row_stride;
  const double* library;  // [rows], or null for the sums of the rows
  const int32_t* panel;   // [rows], or null: all genes count
  const uint8_t* mask;    // [panels, genes], not 0 where a gene counts
  const int64_t* counts;  // [panels] observed genes
  int64_t panels;
  int activation;  // Activation
  double target_sum, eps;
  bool full;  // adds Stirling's term
  KN_FIELDS(rows, genes, target_kind, values, values_kind, indptr, columns, wide_columns, stored,
            row_stride, library, panel, mask, counts, panels, activation, target_sum, eps, full)
};

// Each row's units = L/library, and weights, what its sum of losses counts in the reduction.
template <typename T>
struct PoissonPrepare {
  PoissonProblem<T> problem;
  int reduction;     // PoissonReduction
  int64_t segments;  // parts of a row, each with a sum
  double* units;     // [rows]
  double* weights;   // [rows]
  double* sums;      // [rows, segments], which become 0
  KN_FIELDS(problem, reduction, segments, units, weights, sums)
};

// `count` genes from `first` on: null pointers for what is not wanted. On CUDA what is said to be
// of the sums' kind is float64 for float64 logits, else float32.
template <typename T>
struct PoissonStrip {
  int64_t first, count;
  const T* logits;
  int logits_kind;  // ScalarKind, on CUDA kFloat32, kFloat64 or kBFloat16
  int64_t logits_stride;
  int64_t segments;  // as above
  double* sums;      // [rows, segments], to which the losses are added
  T* loss;           // [rows, count] of the sums' kind, each loss
  T* gradient;       // of the logits' kind: weights_b · upstream · dloss/dlogit; may be the logits
  int64_t gradient_stride;
  const T* upstream;  // [rows, count] of the sums' kind, or null for 1
  int64_t upstream_stride;
  KN_FIELDS(first, count, logits, logits_kind, logits_stride, segments, sums, loss, gradient,
            gradient_stride, upstream, upstream_stride)
};

template <typename T>
struct PoissonSweep {
  PoissonProblem<T> problem;
  PoissonStrip<T> strip;
  const double* units;
  const double* weights;
  KN_FIELDS(problem, strip, units, weights)
};

// out [rows] = weights · Σ sums for `by_cell`, else the one number Σ_b of it; float64 or float32.
struct PoissonFinish {
  int64_t rows, segments;
  const double* sums;
  const double* weights;
  bool by_cell;
  int out_kind;  // ScalarKind
  void* out;
  KN_FIELDS(rows, segments, sums, weights, by_cell, out_kind, out)
};

// to = from · factor, with one factor on the device, float64 for float64, else float32.
struct PoissonScale {
  const void* from;
  void* to;
  int64_t count;
  int kind;  // ScalarKind of both
  const void* factor;
  KN_FIELDS(from, to, count, kind, factor)
};

}  // namespace kernomics
