// The parameters of sample_tokens. Row-major, contiguous.
#pragma once

#include <cstdint>

#include "fields.h"

namespace kernomics {

// A null pointer stands for: the row's position (cell_ids), its sum (library), every gene observed
// (panels), uniform (weights), no draw (seed).
template <typename T>
struct SampleTokens {
  int kind;         // ScalarKind of T
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
  KN_FIELDS(kind, values, indptr, columns, wide_columns, stored, rows, genes, seed, cell_ids,
            stream, n_tokens, library, panel_id, panel_mask, panel_counts, panels, weights,
            expressed, log1p, target_sum, gene_ids, tokens, offsets)
};

}  // namespace kernomics
