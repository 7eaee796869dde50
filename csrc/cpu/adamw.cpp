// A step of AdamW in one sweep, and the sum of the gradient's squares that comes before it.
//
// Of every number g ← factor·g, θ ← (1 − ηλ)θ, m ← m + (1 − β₁)(g − m), v ← β₂v + (1 − β₂)g²,
// θ ← θ − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε), with t that of the parameter or of its row.
// The work is cut into pieces that depend on sizes alone; each is summed in 16 lanes, and pieces
// are added in order, so threads change no bit.
// Bytes: θ, m, v read and written, g read twice: 32 a number in float32, and nothing else is
// written. The floor is memory or, for small models, the L2 cache.
#include <algorithm>
#include <cmath>

#include "isa.h"
#include "kernels.h"
#include "lanes.h"
#include "scratch.h"

namespace kernomics {
namespace {

constexpr int64_t kPiece = int64_t(1) << 14;       // numbers
constexpr int64_t kSerialWork = int64_t(1) << 18;  // numbers; fewer are not worth other threads

template <typename T>
struct Rates {
  T keep, alpha1, beta2, alpha2, eps, factor;  // alpha = 1 − beta
};

// What one t gives: −η/(1 − β₁ᵗ) and 1/√(1 − β₂ᵗ).
template <typename T>
struct Correction {
  T rate, root;
};

template <typename T>
Correction<T> correct(const AdamWStep<T>& a, double t) {
  return {static_cast<T>(-a.rate / (1 - std::pow(a.beta1, t))),
          static_cast<T>(1 / std::sqrt(1 - std::pow(a.beta2, t)))};
}

template <typename T>
Rates<T> rates_of(const AdamWStep<T>& a) {
  return {static_cast<T>(1 - a.rate * a.weight_decay),
          static_cast<T>(1 - a.beta1),
          static_cast<T>(a.beta2),
          static_cast<T>(1 - a.beta2),
          static_cast<T>(a.eps),
          static_cast<T>(a.factor)};
}

template <typename T>
KN_INLINE void update(const Rates<T>& r, const Correction<T>& c, int64_t n,
                      const T* __restrict__ gradient, T* __restrict__ value, T* __restrict__ mean,
                      T* __restrict__ square) {
  for (int64_t i = 0; i < n; ++i) {
    const T g = r.factor * gradient[i];
    const T m = mean[i] + r.alpha1 * (g - mean[i]);
    const T v = r.beta2 * square[i] + r.alpha2 * g * g;
    mean[i] = m;
    square[i] = v;
    value[i] = r.keep * value[i] + c.rate * m / (std::sqrt(v) * c.root + r.eps);
  }
}

template <typename T>
KN_INLINE void update_by_root(const Rates<T>& r, T rate, T root, int64_t n,
                              const T* __restrict__ gradient, T* __restrict__ value,
                              T* __restrict__ mean) {
  for (int64_t i = 0; i < n; ++i) {
    const T m = mean[i] + r.alpha1 * (r.factor * gradient[i] - mean[i]);
    mean[i] = m;
    value[i] = r.keep * value[i] + rate * m / root;
  }
}

template <typename T>
KN_INLINE T largest(const T* x, int64_t n) {
  Lanes<T> top = Lanes<T>::of(T(0));
  T bad = 0, lanes[kLanes];  // NaN if any x is
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    T sizes[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) sizes[l] = std::abs(x[i + l]);
    top.raise_to(Lanes<T>::from(sizes));
  }
  top.store(lanes);
  for (; i < n; ++i) lanes[0] = std::max(lanes[0], std::abs(x[i]));
  for (int64_t j = 0; j < n; ++j) bad += x[j] * T(0);
  return *std::max_element(lanes, lanes + kLanes) + (bad == T(0) ? T(0) : std::abs(bad));
}

template <typename T>
KN_INLINE double square_sum_of(const T* x, int64_t n) {
  Lanes<T> sums = Lanes<T>::of(T(0));
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Lanes<T> v = Lanes<T>::from(x + i);
    v.multiply(v);
    sums.add(v);
  }
  T lanes[kLanes];
  sums.store(lanes);
  for (int64_t l = 0; i < n; ++i, ++l) lanes[l] += x[i] * x[i];
  return total(lanes);
}

template <typename T>
T* at(int64_t address) {
  return reinterpret_cast<T*>(address);
}

struct Piece {
  const AdamWSlot* slot;
  int64_t begin, end;  // numbers, or rows by_row
};

// Rows [begin, end) of those to update, each by its own t.
template <typename T>
void update_rows(const AdamWStep<T>& a, const Rates<T>& r, const Piece& p) {
  const AdamWSlot& s = *p.slot;
  int64_t known = -1;
  Correction<T> c{};
  for (int64_t i = p.begin; i < p.end; ++i) {
    const int64_t row = s.touched == 0 ? i : at<const int64_t>(s.touched)[i];
    const int64_t t = ++at<int64_t>(s.steps)[row], from = row * s.width;
    if (t != known) c = correct(a, static_cast<double>(known = t));
    for_isa<update<T>>(r, c, s.width,
                       at<const T>(s.gradient) + (s.compact != 0 ? i * s.width : from),
                       at<T>(s.value) + from, at<T>(s.mean) + from, at<T>(s.square) + from);
  }
}

template <typename T>
void update_with_one_scale(const AdamWStep<T>& a, const Rates<T>& r, const AdamWSlot& s) {
  const int64_t n = s.rows * s.width;
  const Correction<T> c = correct(a, static_cast<double>(*at<float>(s.steps) += 1));
  const T size = r.factor * for_isa<largest<T>>(at<const T>(s.gradient), n);
  T& square = *at<T>(s.square);
  square = r.beta2 * square + r.alpha2 * size * size;
  for_isa<update_by_root<T>>(r, c.rate, std::sqrt(square) * c.root + r.eps, n,
                             at<const T>(s.gradient), at<T>(s.value), at<T>(s.mean));
}

int team_of(int threads, int64_t numbers, size_t pieces) {
  return numbers < kSerialWork
             ? 1
             : static_cast<int>(std::min<int64_t>(threads, static_cast<int64_t>(pieces)));
}

}  // namespace

template <typename T>
Report adamw_step(const AdamWStep<T>& a, int threads) {
  for (int64_t i = 0; i < a.slot_count; ++i) {
    const AdamWSlot& s = a.slots[i];
    if (s.touched == 0) continue;
    const int64_t* rows = at<const int64_t>(s.touched);
    for (int64_t j = 0; j < s.count; ++j) {
      if (rows[j] < 0 || rows[j] >= s.rows) return {kRowsRange, i, j, rows[j], 0, 1};
      if (j > 0 && rows[j] <= rows[j - 1]) return {kRowsOrder, i, j, rows[j], 0, 1};
    }
  }
  const Rates<T> r = rates_of(a);
  Scratch<Piece> pieces;
  int64_t numbers = 0;
  for (int64_t i = 0; i < a.slot_count; ++i) {
    const AdamWSlot& s = a.slots[i];
    if (a.one_scale) {
      update_with_one_scale(a, r, s);
      continue;
    }
    const int64_t each =
        s.by_row != 0 ? std::max<int64_t>(1, kPiece / std::max<int64_t>(1, s.width)) : kPiece;
    const int64_t all = s.by_row != 0 ? s.count : s.rows * s.width;
    for (int64_t from = 0; from < all; from += each)
      pieces.push_back({&s, from, std::min(all, from + each)});
    if (s.by_row == 0) *at<float>(s.steps) += 1;
    numbers += s.count * s.width;
  }
  const int team = team_of(threads, numbers, pieces.size());
  const int64_t n_pieces = static_cast<int64_t>(pieces.size());
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t i = 0; i < n_pieces; ++i) {
    const Piece& p = pieces[i];
    if (p.slot->by_row != 0) {
      update_rows(a, r, p);
      continue;
    }
    const AdamWSlot& s = *p.slot;
    const Correction<T> c = correct(a, static_cast<double>(*at<float>(s.steps)));
    for_isa<update<T>>(r, c, p.end - p.begin, at<const T>(s.gradient) + p.begin,
                       at<T>(s.value) + p.begin, at<T>(s.mean) + p.begin,
                       at<T>(s.square) + p.begin);
  }
  return {};
}

template <typename T>
void square_sum(const SquareSum<T>& a, int threads) {
  struct Part {
    const T* x;
    int64_t length;
  };
  Scratch<Part> pieces;
  int64_t numbers = 0;
  for (int64_t i = 0; i < a.list_count; ++i) {
    const NumberList& list = a.lists[i];
    for (int64_t from = 0; from < list.length; from += kPiece)
      pieces.push_back({at<const T>(list.address) + from, std::min(kPiece, list.length - from)});
    numbers += list.length;
  }
  const int64_t n_pieces = static_cast<int64_t>(pieces.size());
  Scratch<double> sums(n_pieces);
  const int team = team_of(threads, numbers, pieces.size());
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t i = 0; i < n_pieces; ++i)
    sums[i] = for_isa<square_sum_of<T>>(pieces[i].x, pieces[i].length);
  double sum = 0;
  for (int64_t i = 0; i < n_pieces; ++i) sum += sums[i];
  *a.out = sum;
}

#define KN_INSTANTIATE(T)                                  \
  template Report adamw_step<T>(const AdamWStep<T>&, int); \
  template void square_sum<T>(const SquareSum<T>&, int);

KN_INSTANTIATE(float)
KN_INSTANTIATE(double)

}  // namespace kernomics
