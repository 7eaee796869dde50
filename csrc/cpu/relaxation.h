// The three relaxations of the top-k mask on one row: Γ(y), and u ↦ uᵀ ∂Γ/∂y.
//
// Forced genes (+inf) and forbidden ones (−inf) are no part of the problem: `winners` are the k' =
// k − f finite winners, and n counts the finite genes. Sums are accumulated in double.
#pragma once

#include <cstdint>

#include "../common/gumbel_topk.h"
#include "topk.h"

namespace kernomics {

template <typename T>
struct RowProblem {
  const T* y;  // [genes], ±inf for forced and forbidden genes
  int64_t genes;
  const int64_t* winners;  // [k] indices of the finite winners, ascending
  int64_t k;               // k' in the papers' terms
  int64_t n;               // finite genes
  int64_t forced;          // genes at +inf
  double tau;
};

template <typename T>
struct RelaxationScratch {
  TopkScratch<T> topk;
  Scratch<uint64_t> packed;
  Scratch<int64_t> order;  // gene indices, by descending score
  Scratch<int64_t> reach;  // gene indices, ascending
  Scratch<double> t, d, w, m, a, b, left, right, fu, hu, fwm, hwm, c, wm, one;
  Scratch<int64_t> first, last;  // first and last member of each winner's tie group
  Scratch<T> weight;             // one value per gene of a row
};

template <typename T>
void relaxed_row(int relaxation, const RowProblem<T>& row, T* gamma, RelaxationScratch<T>& s);

template <typename T>
void relaxed_row_vjp(int relaxation, const RowProblem<T>& row, const T* u, T* grad,
                     RelaxationScratch<T>& s);

// Genes with Γ >= 2⁻²⁴ and all winners, ascending, padded with −1; when there are more than
// `capacity`, those with the highest scores. SoftSort and NeuralSort only.
template <typename T>
void reach_row(int relaxation, const RowProblem<T>& row, int64_t capacity, int64_t* indices,
               RelaxationScratch<T>& s);

}  // namespace kernomics
