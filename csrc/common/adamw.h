// The parameters of AdamW's step and of the gradient's norm, on the CPU alone. T is the type of all
// numbers. Tables of addresses, since a model has dozens of parameters.
#pragma once

#include <cstdint>

#include "fields.h"

namespace kernomics {

// One parameter, a row of the table, as int64.
struct AdamWSlot {
  int64_t value, mean, square;  // addresses of T: [rows, width]; `square` [1] with one_scale
  int64_t steps;     // address of float [1], or with by_row of int64 [rows]: how often updated
  int64_t gradient;  // address of T [rows, width]; if `compact` only the `count` touched rows
  int64_t compact;
  int64_t by_row;   // each row counts its own steps
  int64_t touched;  // address of int64 [count], rows ascending; 0 for all rows
  int64_t count;    // rows to update
  int64_t rows, width;
};

template <typename T>
struct AdamWStep {
  int kind;  // ScalarKind of T
  const AdamWSlot* slots;
  int64_t slot_count;
  double rate, weight_decay, beta1, beta2, eps;
  double factor;   // the gradients are multiplied by it
  bool one_scale;  // one second moment for a parameter, of its largest gradient
  KN_FIELDS(kind, slots, slot_count, rate, weight_decay, beta1, beta2, eps, factor, one_scale)
};

struct NumberList {
  int64_t address, length;
};

template <typename T>
struct SquareSum {
  int kind;
  const NumberList* lists;
  int64_t list_count;
  double* out;  // [1], Σ x² of all lists
  KN_FIELDS(kind, lists, list_count, out)
};

}  // namespace kernomics
