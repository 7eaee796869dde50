// What one pass over the cells adds up for each gene and class.
#pragma once

#include <cstdint>

namespace kernomics {

struct GeneSums {
  int64_t rows, genes;
  const int64_t* indptr;
  const int32_t* indices;
  const float* values;
  const int64_t* classes;  // [rows]; a negative one leaves the row out
  const double* weights;   // [rows] what each row's x is multiplied by; null for 1
  bool log;                // x is log(1 + value), or the value
  double* sums;            // [classes, genes, 3]: added to non-zeros, Σ w x, Σ w x²
};

// 8 bytes read for each entry and three neighbouring numbers written, in the order of the rows.
void gene_sums(const GeneSums& params);

}  // namespace kernomics
