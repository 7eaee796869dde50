// SoftSort's relaxed top-k mask and its gradient, exact, from scans over the k winners.
//
//   Γ_j = Σ_{i<=k} softmax_j(−|y_(i) − y_j| / τ)             (Prillo & Eisenschlos 2020, top-k
//   rows)
//
// Row i of the permutation matrix weighs gene j by e^{−|t_i − y_j|/τ}, t_1 >= … >= t_k the winners.
// For a gene outside the k winners that factor splits into e^{−(t_i − t_k)/τ}·e_j,
// e_j = e^{(y_j − t_k)/τ}; for a winner it is a product of neighbouring factors
// d_i = e^{−(t_i − t_{i+1})/τ}. So every sum over winners is a first-order recurrence, and the only
// sums over genes are T = Σ e_j and U = Σ e_j u_j over the outsiders. Every factor is at most 1:
// nothing overflows. O(G + k log k) time, O(k) memory.
//
//   F(v)_1 = 0,  F(v)_i = (F(v)_{i−1} + v_{i−1})·d_{i−1}     from the top down
//   H(v,X)_k = X,  H(v,X)_i = (H(v,X)_{i+1} + v_{i+1})·d_i   from the bottom up
#pragma once

#include <cstdint>

#include "host_device.h"

namespace kernomics {

// F(v) into out; v and out must differ.
template <typename A>
KN_HD void scan_down(const A* v, const A* d, int64_t k, A* out) {
  A carry = 0;
  for (int64_t i = 0; i < k; ++i) {
    out[i] = carry;
    carry = (carry + v[i]) * d[i];  // d[k-1] is unused beyond this point
  }
}

// H(v, X) into out; v and out must differ.
template <typename A>
KN_HD void scan_up(const A* v, const A* d, int64_t k, A x, A* out) {
  A carry = x;
  for (int64_t i = k - 1; i >= 0; --i) {
    out[i] = carry;
    if (i > 0) carry = (carry + v[i]) * d[i - 1];
  }
}

}  // namespace kernomics
