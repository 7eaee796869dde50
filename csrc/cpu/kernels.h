// The CPU kernels: plain functions on the structs of ../common, called by bindings_cpu.cpp.
// T is float or double, for embed_tokens also BFloat16 or Half (half.h). Row-major, contiguous
// unless a stride is given.
#pragma once

#include <cstdint>

#include "../common/adamw.h"
#include "../common/dropout.h"
#include "../common/embed_tokens.h"
#include "../common/gene_means.h"
#include "../common/gumbel_topk.h"
#include "../common/masked_linear.h"
#include "../common/poisson_nll.h"
#include "../common/sample_tokens.h"
#include "report.h"

namespace kernomics {

// Reports a RowFault: of NaN scores how many and the first gene, the forced or usable genes, or the
// row id. Without noise neither seed nor row_ids are read.
template <typename T>
Report gumbel_topk_forward(const GumbelTopk<T>& params, int threads);

// out = uᵀ ∂Γ/∂y
template <typename T>
void gumbel_topk_backward(const RelaxedTopk<T>& params, int threads);

// out = Γ(y)
template <typename T>
void gumbel_topk_relaxed(const RelaxedTopk<T>& params, int threads);

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

// Reports a gene id beyond the tables, and then computes nothing. Writes p and r of its tokens.
template <typename T>
Report gene_means_forward(const GeneMeansForward<T>& params, int threads);

// Reads p and r.
template <typename T>
void gene_means_backward(const GeneMeansBackward<T>& params, int threads);

// What is wrong with the data of the Poisson losses; 1 to 3: CsrFault of a row of the target.
enum PoissonFault : int {
  kPoissonPanel = 4,
  kPoissonLibrary = 5,
  kPoissonRate = 6,  // an observed target rate that is NaN or so large that losses overflow
  kPoissonLoss = 7,  // finite logits and rates whose loss or gradient is not finite
};

// Checks every row; a row's sum is one segment here.
template <typename T>
Report poisson_prepare(const PoissonPrepare<T>& params, int threads);

// Reports rows with kPoissonRate or kPoissonLoss. NaN and infinite logits are passed on, and so is
// a loss that is not finite where the gradient takes the place of the logits.
template <typename T>
Report poisson_sweep(const PoissonSweep<T>& params, int threads);

// What is wrong with the rows that a step touches.
enum RowsFault : int {
  kRowsRange = 1,  // outside [0, rows); the row of the report is the slot, the position that in it
  kRowsOrder = 2,  // they do not ascend
};

// Updates nothing if it reports a fault.
template <typename T>
Report adamw_step(const AdamWStep<T>& params, int threads);

template <typename T>
void square_sum(const SquareSum<T>& params, int threads);

// What is wrong with the data of dropout.
enum DropoutFault : int {
  kDropoutOverflow = 1,  // finite numbers that are not when scaled; the rows are numbers
};

// NaN and infinite numbers are passed on.
template <typename T>
Report dropout(const Dropout<T>& params, int threads);

template <typename T>
void dropout_backward(const DropoutBackward<T>& params, int threads);

}  // namespace kernomics
