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

// F(v) into `down` and H(v, x) into `up`; neither may be v. Each step waits for the one before it,
// so the two recurrences run side by side.
template <typename A>
KN_HD void scan_both(const A* v, const A* d, int64_t k, A x, A* down, A* up) {
  A falling = 0, rising = x;
  for (int64_t i = 0, j = k - 1; i < k; ++i, --j) {
    down[i] = falling;
    up[j] = rising;
    falling = (falling + v[i]) * d[i];
    if (j > 0) rising = (rising + v[j]) * d[j - 1];
  }
}

}  // namespace kernomics
