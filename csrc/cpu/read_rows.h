// Rows of counts on their way from a file into a batch.
#pragma once

#include <cstdint>

namespace kernomics {

// Reads ranges of a file one after the other into `out`. Returns the number of the range that could
// not be read whole, and why: an errno, or 0 for the end of the file; {−1, 0} if all were read.
struct ReadFault {
  int64_t range;
  int error;
};
ReadFault read_ranges(int file, int64_t n, const int64_t* offsets, const int64_t* lengths,
                      char* out);

// What rows are found to lack. In Python these are the constants of data/csr.py.
enum StoredFault : int {
  kStoredOrder = 1,    // genes of a row ascend, and lie in [0, genes)
  kStoredZero = 2,     // no stored zero
  kStoredAmount = 4,   // finite and not negative
  kStoredCount = 8,    // integers of at most 2²⁴
  kStoredUnknown = 16  // the types are not among those known; nothing was done
};

// The types of stored numbers; KINDS in data/csr.py.
enum StoredKind : int {
  kStoredI8,
  kStoredU8,
  kStoredI16,
  kStoredU16,
  kStoredI32,
  kStoredU32,
  kStoredI64,
  kStoredU64,
  kStoredF32,
  kStoredF64
};

struct TakeRows {
  const void* indices;
  int index_kind;  // int32 or int64
  const void* values;
  int value_kind;
  int64_t rows, genes;
  const int64_t* starts;  // [rows] where each begins among the stored
  const int64_t* indptr;  // [rows + 1] where it shall
  int32_t* out_indices;
  float* out_values;
  float* totals;  // [rows], summed in float64; exact where the values are counts
};

// Copies rows, in any order, into int32 and float32, and looks at every entry on the way: 8 to 16
// bytes read and 8 written for each, in one sweep, bound by memory. Returns StoredFaults.
int take_rows(const TakeRows& params);

// A word for each row, the sum of those of its entries; data/cell_digest.py says of what.
void row_words(int64_t rows, const int64_t* indptr, const int32_t* indices, const float* values,
               const uint64_t* genes, uint64_t* out);

}  // namespace kernomics
