// The parameters of dropout. T is the type of the numbers.
#pragma once

#include <cstdint>

#include "fields.h"
#include "host_device.h"
#include "philox.h"

namespace kernomics {

// Of the draw's numbers `count` are here, from the `first` on. Number e has the word of column
// e mod 2³⁴ of row e >> 34, and stays where the word's upper 24 bits reach the threshold.
struct DropoutDraw {
  int64_t count, first;
  const int64_t* seed;  // (key, step)
  uint32_t stream;      // of random words
  int64_t threshold;    // ⌈p·2²⁴⌉
  double scale;         // 1 / (1 − p)
  KN_FIELDS(count, first, seed, stream, threshold, scale)
};

template <typename T>
struct Dropout {
  int kind;  // ScalarKind of T
  DropoutDraw draw;
  const T* x;
  T* y;
  bool rectified;  // negative numbers are 0 first
  KN_FIELDS(kind, draw, x, y, rectified)
};

template <typename T>
struct DropoutBackward {
  int kind;  // ScalarKind of T
  DropoutDraw draw;
  const T* delta;  // the gradient of y
  const T* y;      // of a rectified forward: what is not 0 in it stayed, and no seed is read
  T* grad;         // of x
  KN_FIELDS(kind, draw, delta, y, grad)
};

constexpr int kRowBits = 34;  // of an element's number: columns have 32 bits behind c0's two

// The counter of the row that an element is in; c0 is that of the row's first columns.
KN_HD PhiloxCounter dropout_counter(int64_t element, uint32_t stream, int64_t step) {
  return philox_row_counter(element >> kRowBits, stream, step);
}

}  // namespace kernomics
