// The CUDA entry points of sample_tokens and embed_tokens; see kernels.h for what holds for all.
#pragma once

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

// Tokens [cells, with_cls + tokens, width] of the given kind; other tensors are of the same kind.
struct CudaEmbedShape {
  const void* gene_ids;  // [cells, tokens], −1 for padding; int64 if `wide_ids`, else int32
  bool wide_ids;
  int64_t cells, tokens, genes, width;
  bool concat;    // the token is [E_i ; x], else E_i + v
  bool with_cls;  // a CLS token stands in front
  int kind;       // ScalarKind
};

struct CudaEmbedInputs {
  const void* table;  // [genes, width], rows `table_stride` apart
  int64_t table_stride;
  const void* values;                 // x [cells, tokens], or v [cells, tokens, width]
  int64_t cell_stride, token_stride;  // of v
  const void* cls;                    // [width], or null
};

struct CudaEmbedGradients {
  const void* delta;  // of the tokens, which lie `token_stride` apart, over cells too
  int64_t token_stride;
  void* table;   // [genes, width], or null: not wanted, as the next two
  void* values;  // [cells, tokens], or [cells, tokens, width]
  void* cls;     // [width]
};

// A token of a gene outside [−1, genes) is NaN.
void embed_tokens_forward(const CudaEmbedShape& shape, const CudaEmbedInputs& inputs, void* tokens,
                          CudaStream stream);

// Scratch of the gradient of the table; the others need none.
size_t embed_tokens_backward_scratch(int64_t cells, int64_t tokens, int64_t genes);

void embed_tokens_backward(const CudaEmbedShape& shape, const CudaEmbedGradients& gradients,
                           void* scratch, CudaStream stream);

}  // namespace kernomics
