#include "relaxation.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "../common/math.h"
#include "../common/softsort.h"
#include "sweeps.h"

namespace kernomics {
namespace {

// Fills s.order (gene indices) and s.t (values) with the given genes, by descending score.
template <typename T>
void sort_genes(const RowProblem<T>& row, const int64_t* genes, int64_t count,
                RelaxationScratch<T>& s) {
  s.order.resize(count);
  s.t.resize(count);
  if constexpr (std::is_same_v<T, float>) {
    // One integer per gene, score above position: sorting these is twice as fast as pairs.
    s.packed.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t bits = float_bits(row.y[genes[i]] + 0.0f);  // −0 becomes 0
      const uint32_t ascending = bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFu : 0x80000000u);
      s.packed[i] = static_cast<uint64_t>(~ascending) << 32 | static_cast<uint64_t>(i);
    }
    std::sort(s.packed.begin(), s.packed.end());
    for (int64_t i = 0; i < count; ++i) s.order[i] = genes[s.packed[i] & 0xFFFFFFFFu];
  } else {
    std::copy(genes, genes + count, s.order.begin());
    std::sort(s.order.begin(), s.order.end(), [&](int64_t p, int64_t q) {
      return row.y[p] > row.y[q] || (row.y[p] == row.y[q] && p < q);
    });
  }
  for (int64_t i = 0; i < count; ++i) s.t[i] = static_cast<double>(row.y[s.order[i]]);
}

// First and last member of each position's tie group in s.t.
template <typename T>
void tie_groups(RelaxationScratch<T>& s) {
  const int64_t count = static_cast<int64_t>(s.t.size());
  s.first.resize(count);
  s.last.resize(count);
  for (int64_t i = 0; i < count; ++i)
    s.first[i] = i > 0 && s.t[i] == s.t[i - 1] ? s.first[i - 1] : i;
  for (int64_t i = count - 1; i >= 0; --i)
    s.last[i] = i + 1 < count && s.t[i] == s.t[i + 1] ? s.last[i + 1] : i;
}

// ---- SoftSort -------------------------------------------------------------------------------

// The sums over the outsiders, with and without those whose score equals t_k.
struct Outsiders {
  double total, total_u;                // T and U
  double strict_total, strict_total_u;  // without ties with t_k
  Scratch<int64_t> tied;
};

// Sorts the winners, leaves e_j of every outsider (0 for the others) in `e`, and fills d, L, R, w,
// A, B. `u` are the weights of U.
template <typename T>
Outsiders softsort_prepare(const RowProblem<T>& row, const T* u, T* e, RelaxationScratch<T>& s) {
  const int64_t k = row.k;
  sort_genes(row, row.winners, k, s);
  tie_groups(s);
  for (auto* v :
       {&s.d, &s.w, &s.m, &s.a, &s.b, &s.left, &s.right, &s.fu, &s.hu, &s.fwm, &s.hwm, &s.c, &s.wm})
    v->resize(k);
  s.one.assign(k, 1.0);
  for (int64_t i = 0; i + 1 < k; ++i) s.d[i] = std::exp(-(s.t[i] - s.t[i + 1]) / row.tau);
  s.d[k - 1] = 0;

  const T kth = static_cast<T>(s.t[k - 1]);
  const OutsiderSums sums = outsiders(row.y, u, row.genes, kth, row.tau, e);
  Outsiders found{sums.e, sums.eu, sums.e, sums.eu, {}};
  if (sums.at_top > s.last[k - 1] - s.first[k - 1] + 1) {  // more than the tied winners
    const int64_t* winner = row.winners;
    for (int64_t j = 0; j < row.genes; ++j) {
      const bool won = winner < row.winners + k && *winner == j;
      winner += won ? 1 : 0;
      if (row.y[j] != kth || won) continue;
      e[j] = 1;
      found.total += 1;
      found.total_u += static_cast<double>(u[j]);
      found.tied.push_back(j);
    }
  }
  scan_both(s.one.data(), s.d.data(), k, found.total, s.left.data(), s.right.data());
  for (int64_t i = 0; i < k; ++i) s.w[i] = 1.0 / (1.0 + s.left[i] + s.right[i]);
  scan_both(s.w.data(), s.d.data(), k, 0.0, s.a.data(), s.b.data());
  return found;
}

template <typename T>
void softsort_gamma(const RowProblem<T>& row, T* gamma, RelaxationScratch<T>& s) {
  softsort_prepare(row, row.y, gamma, s);  // U is not used
  const int64_t k = row.k;
  const T outsider = static_cast<T>(s.w[k - 1] + s.a[k - 1]);
  for (int64_t j = 0; j < row.genes; ++j) gamma[j] *= outsider;
  for (int64_t i = 0; i < k; ++i) gamma[s.order[i]] = static_cast<T>(s.w[i] + s.a[i] + s.b[i]);
}

// With m_i = w_i (u_i + F(u)_i + H(u,U)_i), the mean of u under row i:
//   outsider  τ dL/dy_j = e_j [u_j (w_k + A_k) − (w_k m_k + F(wm)_k)]
//   winner    τ dL/dy_r = u_r (A_r − B_r) − F(wm)_r + H(wm,0)_r
//                         + w_r [F(u)_r − m_r L_r] − w_r [H(u,U)_r − m_r R_r]
// Equal scores have no slope between them (sign(0) = 0), so in these two lines every scan takes
// its value at the edge of the tie group: F, A, L at the first member, H, B, R at the last, with T
// and U without outsiders that tie with t_k.
template <typename T>
void softsort_vjp(const RowProblem<T>& row, const T* u, T* grad, RelaxationScratch<T>& s) {
  const int64_t k = row.k;
  s.weight.resize(row.genes);
  T* e = s.weight.data();
  const Outsiders outside = softsort_prepare(row, u, e, s);

  for (int64_t i = 0; i < k; ++i) s.c[i] = static_cast<double>(u[s.order[i]]);
  scan_both(s.c.data(), s.d.data(), k, outside.total_u, s.fu.data(), s.hu.data());
  for (int64_t i = 0; i < k; ++i) {
    s.m[i] = s.w[i] * (s.c[i] + s.fu[i] + s.hu[i]);
    s.wm[i] = s.w[i] * s.m[i];
  }
  scan_both(s.wm.data(), s.d.data(), k, 0.0, s.fwm.data(), s.hwm.data());

  const double inv_tau = 1.0 / row.tau;
  affine_times(e, u, row.genes, (s.w[k - 1] + s.a[k - 1]) * inv_tau,
               (s.wm[k - 1] + s.fwm[k - 1]) * inv_tau, grad);

  const int64_t edge = s.first[k - 1];
  for (const int64_t j : outside.tied)
    grad[j] = static_cast<T>((u[j] * s.a[edge] - s.fwm[edge]) * inv_tau);
  // The strict H and R of the last tie group start from the strict sums.
  for (int64_t i = 0; i < k; ++i) {
    const int64_t f = s.first[i], l = s.last[i];
    const bool at_end = l == k - 1;
    const double h = at_end ? outside.strict_total_u : s.hu[l];
    const double r = at_end ? outside.strict_total : s.right[l];
    const double slope = s.c[i] * (s.a[f] - s.b[l]) - s.fwm[f] + s.hwm[l] +
                         s.w[i] * (s.fu[f] - s.m[i] * s.left[f]) - s.w[i] * (h - s.m[i] * r);
    grad[s.order[i]] = static_cast<T>(slope * inv_tau);
  }
}

// ---- NeuralSort -----------------------------------------------------------------------------

// Row i of NeuralSort (Grover et al. 2019) has logits z_i(j) = ((n+1−2i) y_j − Σ_l |y_j − y_l|)/τ.
// In sorted order z_i(r) − z_i(r+1) = (t_r − t_{r+1}) (2(r−i)+1)/τ, so a row peaks at r = i and
// falls on both sides: its logits are running sums outward from the peak, with no cancellation.
constexpr double kRowFloor[2] = {-88.0, -708.0};  // exp underflows below these

template <typename T>
constexpr double row_floor() {
  return kRowFloor[sizeof(T) == 8];
}

// Sorts as many of the best genes as row k' (the one that reaches furthest down) gives weight to.
template <typename T>
void neuralsort_window(const RowProblem<T>& row, RelaxationScratch<T>& s) {
  const int64_t k = row.k, forced = row.forced;
  int64_t size = std::min(row.n, 2 * k + 64);
  for (;;) {
    s.reach.resize(size + forced);
    select_topk(row.y, row.genes, size + forced, s.reach.data(), s.topk);
    if (forced > 0)
      s.reach.erase(std::remove_if(s.reach.begin(), s.reach.end(),
                                   [&](int64_t j) { return std::isinf(row.y[j]); }),
                    s.reach.end());
    sort_genes(row, s.reach.data(), size, s);
    double logit = 0;
    int64_t r = k - 1;
    while (r + 1 < size && logit > row_floor<T>()) {
      logit -= (s.t[r] - s.t[r + 1]) * (2.0 * (r - (k - 1)) + 1.0) / row.tau;
      ++r;
    }
    if (logit <= row_floor<T>() || size == row.n) {
      s.order.resize(r + 1);
      s.t.resize(r + 1);
      return;
    }
    size = std::min(row.n, 2 * size);
  }
}

// Calls visit(i, lo, hi, p) for each of the k' rows; p[r] for r in [lo, hi) are its probabilities
// over sorted positions.
template <typename T, typename Visit>
void neuralsort_rows(const RowProblem<T>& row, RelaxationScratch<T>& s, Visit visit) {
  const int64_t size = static_cast<int64_t>(s.t.size());
  const double floor = row_floor<T>();
  s.weight.resize(size);
  T* p = s.weight.data();
  for (int64_t i = 0; i < row.k; ++i) {
    p[i] = 0;
    double logit = 0;
    int64_t lo = i, hi = i + 1;
    for (; hi < size; ++hi) {
      logit -= (s.t[hi - 1] - s.t[hi]) * (2.0 * (hi - 1 - i) + 1.0) / row.tau;
      if (logit < floor) break;
      p[hi] = static_cast<T>(logit);
    }
    logit = 0;
    for (; lo > 0; --lo) {
      logit += (s.t[lo - 1] - s.t[lo]) * (2.0 * (lo - 1 - i) + 1.0) / row.tau;
      if (logit < floor) break;
      p[lo - 1] = static_cast<T>(logit);
    }
    exp_below(p + lo, hi - lo, T(0), 1.0, p + lo);
    const double scale = 1.0 / sum(p + lo, hi - lo);
    for (int64_t r = lo; r < hi; ++r) p[r] = static_cast<T>(p[r] * scale);
    visit(i, lo, hi, p);
  }
}

// Σ_i p_i(r) over the sorted window, into s.c.
template <typename T>
void neuralsort_window_gamma(const RowProblem<T>& row, RelaxationScratch<T>& s) {
  neuralsort_window(row, s);
  s.c.assign(s.t.size(), 0.0);
  neuralsort_rows(row, s, [&](int64_t, int64_t lo, int64_t hi, const T* p) {
    for (int64_t r = lo; r < hi; ++r) s.c[r] += p[r];
  });
}

template <typename T>
void neuralsort_gamma(const RowProblem<T>& row, T* gamma, RelaxationScratch<T>& s) {
  neuralsort_window_gamma(row, s);
  std::fill(gamma, gamma + row.genes, T(0));
  for (size_t r = 0; r < s.order.size(); ++r) gamma[s.order[r]] = static_cast<T>(s.c[r]);
}

// With γ_i(r) = p_i(r) (u_r − Σ p_i u) and c_r = Σ_i γ_i(r), for sorted position q in the tie
// group [a, b] (positions from 1):
//   τ dL/dt_q = Σ_i (a + b − 2i) γ_i(q) + Σ_{r<a} c_r − Σ_{r>b} c_r.
// Genes below the window have Σ_r c_r = 0: no gradient.
template <typename T>
void neuralsort_vjp(const RowProblem<T>& row, const T* u, T* grad, RelaxationScratch<T>& s) {
  neuralsort_window(row, s);
  tie_groups(s);
  const int64_t size = static_cast<int64_t>(s.t.size());
  s.c.assign(size, 0.0);
  s.a.assign(size, 0.0);
  s.wm.resize(size);
  for (int64_t r = 0; r < size; ++r) s.wm[r] = static_cast<double>(u[s.order[r]]);
  neuralsort_rows(row, s, [&](int64_t i, int64_t lo, int64_t hi, const T* p) {
    double mean = 0;
    for (int64_t r = lo; r < hi; ++r) mean += static_cast<double>(p[r]) * s.wm[r];
    for (int64_t r = lo; r < hi; ++r) {
      const double gamma = static_cast<double>(p[r]) * (s.wm[r] - mean);
      s.c[r] += gamma;
      s.a[r] += static_cast<double>(s.first[r] + s.last[r] - 2 * i) * gamma;
    }
  });
  double total = 0;
  for (int64_t r = 0; r < size; ++r) total += s.c[r];
  s.b.resize(size + 1);  // prefix sums of c
  s.b[0] = 0;
  for (int64_t r = 0; r < size; ++r) s.b[r + 1] = s.b[r] + s.c[r];
  std::fill(grad, grad + row.genes, T(0));
  for (int64_t q = 0; q < size; ++q) {
    const double above = s.b[s.first[q]], below = total - s.b[s.last[q] + 1];
    grad[s.order[q]] = static_cast<T>((s.a[q] + above - below) / row.tau);
  }
}

// ---- softmax --------------------------------------------------------------------------------

// exp((y_j − max)/τ) of the finite genes into `e`; returns their sum.
template <typename T>
double softmax_weights(const RowProblem<T>& row, T* e) {
  T top = -std::numeric_limits<T>::infinity();
  for (int64_t i = 0; i < row.k; ++i) top = std::max(top, row.y[row.winners[i]]);
  exp_below(row.y, row.genes, top, row.tau, e);
  if (row.forced > 0)
    for (int64_t j = 0; j < row.genes; ++j)
      if (std::isinf(row.y[j])) e[j] = 0;
  return sum(e, row.genes);
}

template <typename T>
void softmax_gamma(const RowProblem<T>& row, T* gamma) {
  const T scale = static_cast<T>(row.k / softmax_weights(row, gamma));
  for (int64_t j = 0; j < row.genes; ++j) gamma[j] *= scale;
}

// Γ = k' softmax(y/τ): τ dL/dy_j = Γ_j (u_j − Σ_l p_l u_l).
template <typename T>
void softmax_vjp(const RowProblem<T>& row, const T* u, T* grad, RelaxationScratch<T>& s) {
  s.weight.resize(row.genes);
  T* e = s.weight.data();
  const double total = softmax_weights(row, e);
  const double mean = dot(e, u, row.genes) / total;
  const double slope = row.k / (total * row.tau);
  affine_times(e, u, row.genes, slope, slope * mean, grad);
}

}  // namespace

template <typename T>
void relaxed_row(int relaxation, const RowProblem<T>& row, T* gamma, RelaxationScratch<T>& s) {
  if (row.k == 0) {
    std::fill(gamma, gamma + row.genes, T(0));
  } else if (relaxation == kSoftSort) {
    softsort_gamma(row, gamma, s);
  } else if (relaxation == kNeuralSort) {
    neuralsort_gamma(row, gamma, s);
  } else {
    softmax_gamma(row, gamma);
  }
  for (int64_t j = 0; row.forced > 0 && j < row.genes; ++j)
    if (row.y[j] == std::numeric_limits<T>::infinity()) gamma[j] = 1;
}

template <typename T>
void relaxed_row_vjp(int relaxation, const RowProblem<T>& row, const T* u, T* grad,
                     RelaxationScratch<T>& s) {
  if (row.k == 0) {
    std::fill(grad, grad + row.genes, T(0));
  } else if (relaxation == kSoftSort) {
    softsort_vjp(row, u, grad, s);
  } else if (relaxation == kNeuralSort) {
    neuralsort_vjp(row, u, grad, s);
  } else {
    softmax_vjp(row, u, grad, s);
  }
}

template <typename T>
void reach_row(int relaxation, const RowProblem<T>& row, int64_t capacity, int64_t* indices,
               RelaxationScratch<T>& s) {
  int64_t count = row.forced + row.k;  // forced genes first in order of score, then the winners
  if (row.k > 0 && relaxation == kSoftSort) {
    s.weight.resize(row.genes);
    softsort_prepare(row, row.y, s.weight.data(), s);  // U is not used
    const T floor = static_cast<T>(kReachFloor / (s.w[row.k - 1] + s.a[row.k - 1]));
    const T* e = s.weight.data();
    for (int64_t j = 0; j < row.genes; ++j) count += e[j] >= floor ? 1 : 0;
  } else if (row.k > 0) {
    neuralsort_window_gamma(row, s);
    int64_t reached = static_cast<int64_t>(s.c.size());
    while (reached > row.k && s.c[reached - 1] < kReachFloor) --reached;
    count = row.forced + reached;
  }
  count = std::min(count, capacity);
  if (count > 0) select_topk(row.y, row.genes, count, indices, s.topk);
  std::fill(indices + count, indices + capacity, int64_t(-1));
}

#define KN_INSTANTIATE(T)                                                             \
  template void relaxed_row<T>(int, const RowProblem<T>&, T*, RelaxationScratch<T>&); \
  template void relaxed_row_vjp<T>(int, const RowProblem<T>&, const T*, T*,           \
                                   RelaxationScratch<T>&);                            \
  template void reach_row<T>(int, const RowProblem<T>&, int64_t, int64_t*, RelaxationScratch<T>&);

KN_INSTANTIATE(float)
KN_INSTANTIATE(double)

}  // namespace kernomics
