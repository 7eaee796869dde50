// The CPU kernels: plain functions on pointers and sizes, called by bindings_cpu.cpp.
// T is float or double, for embed_tokens also BFloat16 or Half (half.h). Row-major, contiguous
// unless a stride is given.
#pragma once

#include <cstdint>

#include "../common/embed_tokens.h"
#include "../common/gumbel_topk.h"
#include "../common/masked_linear.h"
#include "../common/sample_tokens.h"
#include "report.h"

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

// What is wrong with the arguments of masked_linear; 1 to 3 are those of csr.h.
enum LinearFault : int {
  kLinearChosenRange = 4,  // `chosen` outside [0, genes); the position is that in the list
  kLinearChosenOrder = 5,  // `chosen` does not ascend
  kLinearReachRange = 6,   // the same of `reached`
  kLinearReachOrder = 7,
  kLinearOverflow = 8,  // finite numbers whose sum is not
};

// y [rows, outputs] = Σ_{j chosen} mask_j x_j weight_j + bias
template <typename T>
Report masked_linear_forward(const LinearForward<T>& params, int threads);

template <typename T>
void masked_linear_backward(const LinearBackward<T>& params, int threads);

// What is wrong with the arguments of sample_tokens; 1 to 3 are those of csr.h.
enum TokenFault : int {
  kTokensCellId = 4,   // outside [0, 2⁴⁸)
  kTokensPanel = 5,    // a panel id outside [0, panels)
  kTokensLibrary = 6,  // negative, NaN or infinite, given or summed; so for the next
  kTokensCount = 7,
  kTokensWeight = 8,  // no weight_fits; the rows are genes
  kTokensFaults = 9,  // how many codes there are
};

// Counts the rows with the first bad row's fault.
template <typename T>
Report sample_tokens(const SampleTokens<T>& params, int threads);

// Reports a gene id outside [−1, genes), and then writes no tokens.
template <typename T>
Report embed_tokens_forward(const EmbedForward<T>& params, int threads);

template <typename T>
void embed_tokens_backward(const EmbedBackward<T>& params, int threads);

// The target rates y [rows, genes] of the Poisson loss: CSR, or dense where `indptr` is null.
template <typename T>
struct PoissonTarget {
  int kind;         // TargetKind
  const T* values;  // CSR: [stored]
  const int64_t* indptr;
  const void* columns;  // int64 if `wide_columns`, else int32
  bool wide_columns;
  int64_t stored;
  int64_t row_stride;     // dense
  const double* library;  // [rows], or null for the sums of the rows
};

// Which genes count: those with mask[panel_b, i] ≠ 0, or all where `panel` is null.
struct PoissonObserved {
  const int32_t* panel;   // [rows]
  const uint8_t* mask;    // [panels, genes]
  const int64_t* counts;  // [panels] observed genes
  int64_t panels;
};

template <typename T>
struct PoissonArgs {
  int64_t rows, genes;
  PoissonTarget<T> target;
  PoissonObserved observed;
  int activation;  // Activation
  double target_sum, eps;
  bool full;  // adds Stirling's term
  int threads;
};

enum PoissonReduction : int {
  kReduceMean = 0,   // of each cell over its observed genes, then over cells
  kReduceGenes = 1,  // Σ over Σ observed genes
  kReduceSum = 2,
  kReduceCell = 3,  // of each cell over its observed genes
};

enum PoissonFault : int {
  kPoissonFine = 0,  // 1 to 3: CsrFault of a row of the target
  kPoissonPanel = 4,
  kPoissonLibrary = 5,
  kPoissonRate = 6,  // an observed target rate that is NaN or so large that losses overflow
  kPoissonLoss = 7,  // finite logits and rates whose loss or gradient is not finite
};

struct PoissonReport {
  int fault = kPoissonFine;
  int64_t row = 0;       // the first bad row
  int64_t position = 0;  // as in CsrReport
  int64_t value = 0;     // as in CsrReport, or the panel
  double library = 0;
  int64_t count = 0;  // bad rows
};

// Checks every row and writes two numbers for each: units = L/library, and weights, what its sum
// of losses counts in the reduction.
template <typename T>
PoissonReport poisson_prepare(const PoissonArgs<T>& args, int reduction, double* units,
                              double* weights);

// `count` genes from `first` on: null pointers for what is not wanted.
template <typename T>
struct PoissonStrip {
  int64_t first, count;
  const T* logits;
  int64_t logits_stride;
  double* sums;  // [rows], to which the losses are added
  T* loss;       // [rows, count], each loss
  T* gradient;   // [rows, count], weights_b · upstream · dloss/dlogit; may be the logits themselves
  int64_t gradient_stride;
  const T* upstream;  // [rows, count], or null for 1
  int64_t upstream_stride;
};

// Reports rows with kPoissonRate or kPoissonLoss. NaN and infinite logits are passed on, and so is
// a loss that is not finite where the gradient takes the place of the logits.
template <typename T>
PoissonReport poisson_sweep(const PoissonArgs<T>& args, const PoissonStrip<T>& strip,
                            const double* units, const double* weights);

}  // namespace kernomics
