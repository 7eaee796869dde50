// The parameters of dropout. T is the type of the numbers.
#pragma once

#include <cstdint>

#include "fields.h"
#include "host_device.h"
#include "philox.h"

namespace kernomics {

// Of the draw's numbers `count` are here, from the `first` on. Number e has the word of column
// e mod 2³⁴ of row e >> 34, and stays where the word's upper 24 bits reach the threshold.
template <typename T>
struct Dropout {
  int kind;  // ScalarKind of T
  const T* x;
  T* y;
  int64_t count, first;
  int64_t key, draw;  // of the module, and the how manieth of it
  int64_t threshold;  // ⌈p·2²⁴⌉
  double scale;       // 1 / (1 − p)
  bool rectified;     // negative numbers are 0 first
  KN_FIELDS(kind, x, y, count, first, key, draw, threshold, scale, rectified)
};

constexpr int kRowBits = 34;  // of an element's number: columns have 32 bits behind c0's two

// The counter of the row that an element is in; c0 is that of the row's first columns.
KN_HD PhiloxCounter dropout_counter(int64_t element, int64_t draw) {
  return philox_row_counter(element >> kRowBits, kStreamDropout, draw);
}

}  // namespace kernomics
