// The parameters of embed_tokens. T is the type of all numbers; void on CUDA, where `kind` names
// it. Row-major, contiguous unless a stride is given.
#pragma once

#include <cstdint>

#include "fields.h"

namespace kernomics {

// Tokens [cells, with_cls + tokens, width].
struct EmbedShape {
  int kind;              // ScalarKind of T
  const void* gene_ids;  // [cells, tokens], −1 for padding; int64 if `wide_ids`, else int32
  bool wide_ids;
  int64_t cells, tokens, genes, width;
  bool concat;    // the token is [E_i ; x], else E_i + v
  bool with_cls;  // a CLS token stands in front
  KN_FIELDS(kind, gene_ids, wide_ids, cells, tokens, genes, width, concat, with_cls)
};

template <typename T>
struct EmbedForward {
  EmbedShape shape;
  const T* table;  // [genes, width], rows `table_stride` apart; for concat without its last column
  int64_t table_stride;
  const T* values;                    // x [cells, tokens], or v [cells, tokens, width]
  int64_t cell_stride, token_stride;  // of v
  const T* cls;                       // [width], or null
  T* out;                             // the tokens
  KN_FIELDS(shape, table, table_stride, values, cell_stride, token_stride, cls, out)
};

template <typename T>
struct EmbedBackward {
  EmbedShape shape;
  const T* delta;  // of the tokens; on CUDA all lie `token_stride` apart, over cells too
  int64_t cell_stride, token_stride;
  T* grad_table;   // [genes, width], or null: not wanted, as the next two
  T* grad_values;  // [cells, tokens], or [cells, tokens, width]
  T* grad_cls;     // [width]
  KN_FIELDS(shape, delta, cell_stride, token_stride, grad_table, grad_values, grad_cls)
};

}  // namespace kernomics
