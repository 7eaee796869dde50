// What a CPU kernel says of its data.
#pragma once

#include <cstdint>

namespace kernomics {

// The first fault found. In Python it is `Report` of python/kernomics/ops/_common.py.
struct Report {
  int fault = 0;         // 0: none; 1 to 3: CsrFault; beyond, each op's own
  int64_t row = 0;       // the first bad row
  int64_t position = 0;  // where in it
  int64_t value = 0;     // what was found there
  double number = 0;     // the same where it is no integer
  int64_t count = 0;     // how many are bad
};

// Adds what was found in a row. Threads must take turns.
inline void keep_first(Report& kept, const Report& found) {
  const int64_t count = kept.count + 1;
  if (kept.fault == 0 || found.row < kept.row) kept = found;
  kept.count = count;
}

}  // namespace kernomics
