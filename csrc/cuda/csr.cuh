// Rows of compressed sparse rows whose pointers may be at fault.
#pragma once

#include <cstdint>

namespace kernomics {

struct Range {
  int64_t begin, end;
};

// Whether a row's pointers rise and stay within what is stored.
__device__ __forceinline__ bool row_fits(const int64_t* indptr, int64_t stored, int64_t row) {
  return indptr[row] >= 0 && indptr[row] <= indptr[row + 1] && indptr[row + 1] <= stored;
}

// Where a row's entries stand; none if its pointers are at fault.
__device__ __forceinline__ Range row_entries(const int64_t* indptr, int64_t stored, int64_t row) {
  return row_fits(indptr, stored, row) ? Range{indptr[row], indptr[row + 1]} : Range{0, 0};
}

}  // namespace kernomics
