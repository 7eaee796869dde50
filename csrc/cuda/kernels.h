// The CUDA kernels' entry points: plain functions on device addresses, sizes and a stream, called
// by bindings_cuda.cpp. T is float or double. Row-major, contiguous unless a stride is given.
//
// Nothing here allocates or synchronises, so every call can be captured in a CUDA graph: scratch
// comes from the caller, of the size that the matching *_scratch function tells. A failed launch
// throws std::runtime_error with the kernel's name.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/embed_tokens.h"
#include "../common/masked_linear.h"
#include "../common/sample_tokens.h"

struct CUstream_st;

namespace kernomics {

using CudaStream = CUstream_st*;

// ---- gumbel_topk ----------------------------------------------------------------------------

// y = scores + scale·g; no noise for scale 0, and then seed and row_ids are not read.
template <typename T>
struct CudaGumbelTopkArgs {
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
  T* mask;                // [rows, genes], NaN in rows with a fault
  int64_t* indices;       // [rows, k], in range in every row
  int64_t* grad_indices;  // [rows, reach]
  int32_t* faults;        // [rows, 2]: a RowFault and its count
  void* scratch;
};

template <typename T>
size_t gumbel_topk_forward_scratch(int64_t rows, int64_t genes, int64_t k, int relaxation,
                                   int64_t reach, bool keep_y);

template <typename T>
void gumbel_topk_forward(const CudaGumbelTopkArgs<T>& args, CudaStream stream);

// Scratch of the two functions below.
template <typename T>
size_t gumbel_topk_relaxed_scratch(int64_t rows, int64_t genes, int64_t k, int relaxation);

// grad [rows, genes] = uᵀ ∂Γ/∂y at the kept y and indices [rows, k].
template <typename T>
void gumbel_topk_backward(const T* y, const int64_t* indices, const T* u, int64_t rows,
                          int64_t genes, int64_t k, double tau, int relaxation, T* grad,
                          void* scratch, CudaStream stream);

// gamma [rows, genes] = Γ(y).
template <typename T>
void gumbel_topk_relaxed(const T* y, const int64_t* indices, int64_t rows, int64_t genes, int64_t k,
                         double tau, int relaxation, T* gamma, void* scratch, CudaStream stream);

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

}  // namespace kernomics
