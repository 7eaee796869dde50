// The parameters of gene_means, on the CPU alone. T is the type of all numbers. Row-major and
// contiguous.
#pragma once

#include <cstdint>

#include "fields.h"

namespace kernomics {

// Token k of a cell is gene i = gene_ids[cell, k] with value v; CLS, in front, is row `genes` of
// all tables with `cls_value`. Rows of `centred` are `stride` long, a multiple of 16, with zeros
// behind `width`; heads are padded to `head_stride`, a multiple of 4, with zeros.
template <typename T>
struct GeneTokens {
  int kind;                 // ScalarKind of T
  const int64_t* gene_ids;  // [cells, tokens], −1 for padding
  const T* values;          // [cells, tokens]
  int64_t cells, tokens, genes, width, stride, heads, head_stride;
  const T* cls_value;  // [1]
  double eps;
  const T* centred;  // C [genes + 1, stride]
  const T* scores;   // aᵀC [genes + 1, head_stride]
  const T* means;    // m [genes + 1]
  const T* squares;  // |C|² [genes + 1]
  const T* last;     // a's last numbers [head_stride]
  T* p;              // [cells, heads, tokens + 1], the attention; as the next, the tokens that are
                     // there come first
  T* r;              // [cells, tokens + 1]
  KN_FIELDS(kind, gene_ids, values, cells, tokens, genes, width, stride, heads, head_stride,
            cls_value, eps, centred, scores, means, squares, last, p, r)
};

template <typename T>
struct GeneMeansForward {
  GeneTokens<T> in;
  T* out;  // Σ p x̂ [heads, cells, width]
  KN_FIELDS(in, out)
};

template <typename T>
struct GeneMeansBackward {
  GeneTokens<T> in;
  const T* delta;   // [heads, cells, width]
  T* of_centred;    // [genes + 1, stride], without what comes by the scores and the squares
  T* of_scores;     // [genes + 1, head_stride]
  T* of_means;      // [genes + 1]
  T* of_squares;    // [genes + 1]
  T* of_last;       // [head_stride]
  T* of_values;     // [cells, tokens]
  T* of_cls_value;  // [1]
  KN_FIELDS(in, delta, of_centred, of_scores, of_means, of_squares, of_last, of_values,
            of_cls_value)
};

}  // namespace kernomics
