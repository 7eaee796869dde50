// The CUDA kernels' entry points: plain functions on the structs of ../common with device
// addresses, and a stream, called by bindings_cuda.cpp. T is float or double; void where kinds name
// the types.
//
// Nothing here allocates or synchronises, so every call can be captured in a CUDA graph: scratch
// comes from the caller, of the size that the matching *_scratch function tells. A failed launch
// throws std::runtime_error with the kernel's name.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/dropout.h"
#include "../common/embed_tokens.h"
#include "../common/gumbel_topk.h"
#include "../common/masked_linear.h"
#include "../common/poisson_nll.h"
#include "../common/sample_tokens.h"

struct CUstream_st;

namespace kernomics {

using CudaStream = CUstream_st*;

// ---- gumbel_topk ----------------------------------------------------------------------------

template <typename T>
size_t gumbel_topk_forward_scratch(const GumbelTopk<T>& params);

template <typename T>
void gumbel_topk_forward(const GumbelTopk<T>& params, void* scratch, CudaStream stream);

template <typename T>
size_t gumbel_topk_relaxed_scratch(const RelaxedTopk<T>& params);

// out = Γ(y), or with a u that is not null uᵀ ∂Γ/∂y.
template <typename T>
void gumbel_topk_relaxed(const RelaxedTopk<T>& params, void* scratch, CudaStream stream);

// ---- masked_linear --------------------------------------------------------------------------

// NaN in every row of y if a chosen gene is not one of the genes, and in a row whose pointers or
// columns are at fault where they were met.
void masked_linear_forward(const LinearForward<void>& params, CudaStream stream);

// grad_mask and grad_weight must hold zeros: only the rows of chosen and the entries of reached
// genes are written. A gene in these lists that is none of the genes leaves NaN at the one next to
// it. grad_bias is not written.
void masked_linear_backward(const LinearBackward<void>& params, CudaStream stream);

// ---- sample_tokens --------------------------------------------------------------------------

// A row with a fault gets genes 0, 1, … and NaN.
template <typename T>
size_t sample_tokens_scratch(const SampleTokens<T>& params);

template <typename T>
void sample_tokens(const SampleTokens<T>& params, void* scratch, CudaStream stream);

// ---- embed_tokens ---------------------------------------------------------------------------

// A token of a gene outside [−1, genes) is NaN.
void embed_tokens_forward(const EmbedForward<void>& params, CudaStream stream);

size_t embed_tokens_backward_scratch(const EmbedBackward<void>& params);

void embed_tokens_backward(const EmbedBackward<void>& params, void* scratch, CudaStream stream);

// ---- poisson_nll ----------------------------------------------------------------------------

// A row whose panel, library or row pointers are at fault gets the weight NaN.
void poisson_prepare(const PoissonPrepare<void>& params, CudaStream stream);

void poisson_sweep(const PoissonSweep<void>& params, CudaStream stream);

void poisson_finish(const PoissonFinish& params, CudaStream stream);

void poisson_scale(const PoissonScale& params, CudaStream stream);

// ---- dropout --------------------------------------------------------------------------------

template <typename T>
void dropout(const Dropout<T>& params, CudaStream stream);

template <typename T>
void dropout_backward(const DropoutBackward<T>& params, CudaStream stream);

}  // namespace kernomics
