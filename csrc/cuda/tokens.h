// The CUDA entry points of sample_tokens and embed_tokens; see kernels.h for what holds for all.
#pragma once

#include "../common/embed_tokens.h"
#include "kernels.h"

namespace kernomics {

// ---- sample_tokens --------------------------------------------------------------------------

// A null pointer stands for: the row's position (cell_ids), its sum (library), every gene observed
// (panels), uniform (weights), no draw (seed). A row with a fault gets genes 0, 1, … and NaN.
template <typename T>
struct CudaTokenArgs {
  const T* values;  // CSR [rows, genes]
  const int64_t* indptr;
  const void* columns;  // int64 if `wide_columns`, else int32
  bool wide_columns;
  int64_t stored, rows, genes;
  const int64_t* seed;      // (key, step)
  const int64_t* cell_ids;  // [rows]
  uint32_t stream;          // of random words
  int64_t n_tokens;
  const double* library;        // [rows]
  const int32_t* panel_id;      // [rows]
  const uint8_t* panel_mask;    // [panels, genes], 1 where observed
  const int64_t* panel_counts;  // [panels], how many are
  int64_t panels;
  const float* weights;  // [genes]
  bool expressed;        // candidates are the row's own genes, not all observed ones
  bool log1p;            // else raw counts
  double target_sum;     // 0: counts are not divided by the library
  int32_t* gene_ids;     // [rows, n_tokens], ascending, −1 where there are no more candidates
  T* tokens;             // [rows, n_tokens], their values, 0 there
  int64_t* offsets;      // [rows + 1] for rows without gaps (the rest of the room then is −1 and 0)
  void* scratch;
};

template <typename T>
size_t sample_tokens_scratch(int64_t rows, int64_t genes, int64_t n_tokens, bool ragged);

template <typename T>
void sample_tokens(const CudaTokenArgs<T>& args, CudaStream stream);

// ---- embed_tokens ---------------------------------------------------------------------------

// A token of a gene outside [−1, genes) is NaN.
void embed_tokens_forward(const EmbedForward<void>& params, CudaStream stream);

size_t embed_tokens_backward_scratch(const EmbedBackward<void>& params);

void embed_tokens_backward(const EmbedBackward<void>& params, void* scratch, CudaStream stream);

}  // namespace kernomics
