// Attention from CLS to genes and their values: Σ_k p_k x̂_k of each cell and head, and its
// gradients, without writing a token. The algebra is in python/kernomics/nn/gene_attention.py:
// with w = v − m_i, r = (S_i/d + (d−1)/d² w² + ε)^(−½) and z = r(aᵀC_i + w a_d), p is the softmax
// of z, u = p·r, and the sum is Σ u C_i + β Σ u w, β = e_d − 1/d.
//
// Forward: cell by cell, the rows of C from the L2 cache. Backward: first each cell's numbers a
// token, with ⟨δ, C_i⟩ of four heads at a time; then the sums by gene, whose rows each belong to
// one thread and are added in the order of the tokens, so that threads change no bit.
// Operations: of a token 2·H·d multiply-adds in backward and H·d in forward. Bytes: a row of C and
// of dC a token, from the L2 cache where it holds them; the rest is a few numbers a token and head.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "isa.h"
#include "kernels.h"
#include "lanes.h"
#include "scratch.h"
#include "sweeps.h"

namespace kernomics {
namespace {

constexpr int64_t kSerialWork = int64_t(1) << 20;  // multiply-adds; fewer are not worth threads

// 32 bytes, at any address: vectors that AVX2 keeps in its registers.
template <typename T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(32), aligned(4), may_alias));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(32), aligned(8), may_alias));
};
template <typename T>
using Vec = typename VecOf<T>::type;
template <typename T>
constexpr int64_t kVec = 32 / sizeof(T);

// What a thread keeps of the cell it works on.
template <typename T>
struct CellScratch {
  Scratch<int64_t> row;    // [tokens + 1], rows of the tables, padding left out
  Scratch<int64_t> place;  // [tokens + 1], which token it is; −1 for CLS
  Scratch<T> w, z;         // [tokens + 1]
  Scratch<T> u, of_z;      // [4, tokens + 1]
  Scratch<T> of_u, of_r;   // [4, tokens + 1] and [tokens + 1]
  Scratch<T> u4;           // [tokens + 1, 4]
  int64_t count;

  void fit(int64_t length) {
    for (Scratch<int64_t>* x : {&row, &place}) x->resize(length);
    for (Scratch<T>* x : {&w, &z, &of_r}) x->resize(length);
    for (Scratch<T>* x : {&u, &of_z, &of_u, &u4}) x->resize(4 * length);
  }
};

template <typename T>
KN_INLINE void read_cell(const GeneTokens<T>& a, int64_t b, CellScratch<T>& s) {
  s.row[0] = a.genes;
  s.place[0] = -1;
  s.w[0] = *a.cls_value - a.means[a.genes];
  int64_t n = 1;
  for (int64_t k = 0; k < a.tokens; ++k) {
    const int64_t at = b * a.tokens + k, gene = a.gene_ids[at];
    if (gene < 0) continue;
    s.row[n] = gene;
    s.place[n] = k;
    s.w[n] = a.values[at] - a.means[gene];
    ++n;
  }
  s.count = n;
}

// z of one head, from r and w.
template <typename T>
KN_INLINE void score(const GeneTokens<T>& a, int64_t head, const T* r, CellScratch<T>& s) {
  const T last = a.last[head];
  for (int64_t t = 0; t < s.count; ++t)
    s.z[t] = (a.scores[s.row[t] * a.head_stride + head] + s.w[t] * last) * r[t];
}

template <typename T>
KN_INLINE T top_of(const T* x, int64_t n) {
  Lanes<T> top = Lanes<T>::of(x[0]);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) top.raise_to(Lanes<T>::from(x + i));
  T lanes[kLanes];
  top.store(lanes);
  for (; i < n; ++i) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
  for (int64_t l = 1; l < kLanes; ++l) lanes[0] = lanes[l] > lanes[0] ? lanes[l] : lanes[0];
  return lanes[0];
}

// Four rows [4, length] one number of each after the other, out [n, 4].
template <typename T>
KN_INLINE void interleave(const T* __restrict__ rows, int64_t length, int64_t n, int64_t step,
                          T* __restrict__ out) {
  for (int64_t t = 0; t < n; ++t)
    for (int64_t h = 0; h < 4; ++h) out[t * step + h] = rows[h * length + t];
}

// out_h += Σ_t u_th C_t of four heads, `out` [4, stride].
template <typename T>
KN_INLINE void mix(const GeneTokens<T>& a, const CellScratch<T>& s, T* out) {
  constexpr int64_t v = kVec<T>;
  const T* u = s.u4.data();
  for (int64_t j = 0; j < a.stride; j += 2 * v) {
    Vec<T> a0{}, a1{}, b0{}, b1{}, c0{}, c1{}, d0{}, d1{};
    for (int64_t t = 0; t < s.count; ++t) {
      const T* row = a.centred + s.row[t] * a.stride + j;
      const Vec<T> x = *reinterpret_cast<const Vec<T>*>(row);
      const Vec<T> y = *reinterpret_cast<const Vec<T>*>(row + v);
      const T* u4 = u + 4 * t;
      a0 += u4[0] * x, a1 += u4[0] * y;
      b0 += u4[1] * x, b1 += u4[1] * y;
      c0 += u4[2] * x, c1 += u4[2] * y;
      d0 += u4[3] * x, d1 += u4[3] * y;
    }
    const auto put = [&](int64_t head, const Vec<T>& x, const Vec<T>& y) {
      std::memcpy(out + head * a.stride + j, &x, sizeof x);
      std::memcpy(out + head * a.stride + j + v, &y, sizeof y);
    };
    put(0, a0, a1), put(1, b0, b1), put(2, c0, c1), put(3, d0, d1);
  }
}

// of_u_ht = ⟨δ_h, C_t⟩ of four heads, `delta` [4, stride].
template <typename T>
KN_INLINE void dots(const GeneTokens<T>& a, const T* delta, CellScratch<T>& s, int64_t length) {
  constexpr int64_t v = kVec<T>;
  const T *da = delta, *db = delta + a.stride, *dc = delta + 2 * a.stride,
          *dd = delta + 3 * a.stride;
  T* out = s.of_u.data();
  for (int64_t t = 0; t < s.count; ++t) {
    const T* row = a.centred + s.row[t] * a.stride;
    Vec<T> sa{}, sb{}, sc{}, sd{};
    for (int64_t j = 0; j < a.stride; j += v) {
      const Vec<T> x = *reinterpret_cast<const Vec<T>*>(row + j);
      sa += x * *reinterpret_cast<const Vec<T>*>(da + j);
      sb += x * *reinterpret_cast<const Vec<T>*>(db + j);
      sc += x * *reinterpret_cast<const Vec<T>*>(dc + j);
      sd += x * *reinterpret_cast<const Vec<T>*>(dd + j);
    }
    T lanes[4][v];
    std::memcpy(lanes[0], &sa, sizeof sa);
    std::memcpy(lanes[1], &sb, sizeof sb);
    std::memcpy(lanes[2], &sc, sizeof sc);
    std::memcpy(lanes[3], &sd, sizeof sd);
    for (int64_t h = 0; h < 4; ++h) {
      const T* l = lanes[h];
      if constexpr (v == 8)
        out[h * length + t] = ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
      else
        out[h * length + t] = (l[0] + l[2]) + (l[1] + l[3]);
    }
  }
}

// ---- forward --------------------------------------------------------------------------------

template <typename T>
KN_INLINE void forward_cell(const GeneMeansForward<T>& f, int64_t b, CellScratch<T>& s, T* mixed) {
  const GeneTokens<T>& a = f.in;
  const int64_t length = a.tokens + 1;
  read_cell(a, b, s);
  T* __restrict__ r = a.r + b * length;
  const T d = static_cast<T>(a.width), eps = static_cast<T>(a.eps);
  for (int64_t t = 0; t < s.count; ++t)
    r[t] = T(1) / std::sqrt((s.w[t] * s.w[t] * ((d - 1) / d) + a.squares[s.row[t]]) / d + eps);
  for (int64_t first = 0; first < a.heads; first += 4) {
    const int64_t some = std::min<int64_t>(4, a.heads - first);
    T shifts[4] = {};
    if (some < 4) std::fill(s.u.begin(), s.u.end(), T(0));
    for (int64_t h = 0; h < some; ++h) {
      T* __restrict__ p = a.p + (b * a.heads + first + h) * length;
      T* __restrict__ u = s.u.data() + h * length;
      score(a, first + h, r, s);
      exp_below(s.z.data(), s.count, top_of(s.z.data(), s.count), 1.0, p);
      const T share = static_cast<T>(1 / sum(p, s.count));
      for (int64_t t = 0; t < s.count; ++t) {
        p[t] *= share;
        u[t] = p[t] * r[t];
      }
      shifts[h] = static_cast<T>(dot(u, s.w.data(), s.count));
    }
    interleave(s.u.data(), length, s.count, 4, s.u4.data());
    mix(a, s, mixed);
    for (int64_t h = 0; h < some; ++h) {
      T* __restrict__ out = f.out + ((first + h) * a.cells + b) * a.width;
      for (int64_t j = 0; j < a.width; ++j) out[j] = mixed[h * a.stride + j] - shifts[h] / d;
      out[a.width - 1] += shifts[h];
    }
  }
}

// ---- backward -------------------------------------------------------------------------------

// What cells leave for the sums by gene, [cells, …].
template <typename T>
struct Left {
  Scratch<T> delta;              // [head_stride, stride]
  Scratch<T> of_scores;          // [tokens + 1, head_stride]
  Scratch<T> u;                  // [tokens + 1, head_stride]
  Scratch<T> of_w, of_variance;  // [tokens + 1]
  Scratch<int32_t> row;          // [tokens + 1]
  Scratch<int64_t> count;        // []
  Scratch<double> of_last;       // [heads], of all cells, as the next
  Scratch<T> of_cls;             // [], of CLS's value
};

template <typename T>
KN_INLINE void backward_cell(const GeneMeansBackward<T>& g, int64_t b, int64_t place,
                             CellScratch<T>& s, Left<T>& left) {
  const GeneTokens<T>& a = g.in;
  const int64_t length = a.tokens + 1, hs = a.head_stride;
  read_cell(a, b, s);
  const T d = static_cast<T>(a.width);
  const T* r = a.r + b * length;
  T* delta = left.delta.data() + place * hs * a.stride;
  T* of_scores = left.of_scores.data() + place * length * hs;
  T* u = left.u.data() + place * length * hs;
  T* __restrict__ of_w = left.of_w.data() + place * length;
  T* __restrict__ of_variance = left.of_variance.data() + place * length;
  T* __restrict__ of_r = s.of_r.data();
  const int64_t n = s.count;
  left.count[place] = n;
  for (int64_t t = 0; t < n; ++t) left.row[place * length + t] = static_cast<int32_t>(s.row[t]);
  std::fill(delta, delta + hs * a.stride, T(0));
  std::fill(of_w, of_w + n, T(0));
  std::fill(of_r, of_r + n, T(0));
  for (int64_t h = 0; h < a.heads; ++h)
    std::memcpy(delta + h * a.stride, g.delta + (h * a.cells + b) * a.width, a.width * sizeof(T));
  for (int64_t first = 0; first < a.heads; first += 4) {
    dots(a, delta + first * a.stride, s, length);
    if (first + 4 > a.heads) {
      std::fill(s.u.begin(), s.u.end(), T(0));
      std::fill(s.of_z.begin(), s.of_z.end(), T(0));
    }
    for (int64_t h = first; h < std::min(a.heads, first + 4); ++h) {
      const T* dh = delta + h * a.stride;
      const T of_shift = dh[a.width - 1] - static_cast<T>(sum(dh, a.width) / a.width);
      const T* __restrict__ p = a.p + (b * a.heads + h) * length;
      const T* __restrict__ w = s.w.data();
      const T* __restrict__ z = s.z.data();
      T* __restrict__ of_u = s.of_u.data() + (h - first) * length;
      T* __restrict__ ut = s.u.data() + (h - first) * length;
      T* __restrict__ of_z = s.of_z.data() + (h - first) * length;
      const T last = a.last[h];
      score(a, h, r, s);
      for (int64_t t = 0; t < n; ++t) {
        of_u[t] += w[t] * of_shift;
        of_z[t] = of_u[t] * r[t];  // of p
        ut[t] = p[t] * r[t];
      }
      const T all = static_cast<T>(dot(p, of_z, n));
      for (int64_t t = 0; t < n; ++t) {
        const T outer = p[t] * (of_z[t] - all);
        of_r[t] += outer * z[t] + of_u[t] * ut[t];
        of_z[t] = outer * r[t];
        of_w[t] += last * of_z[t] + ut[t] * of_shift;
      }
      left.of_last[b * a.heads + h] = dot(of_z, w, n);
    }
    interleave(s.of_z.data(), length, n, hs, of_scores + first);
    interleave(s.u.data(), length, n, hs, u + first);
  }
  const T slope = 2 * (d - 1) / (d * d);
  for (int64_t t = 0; t < n; ++t) {
    of_variance[t] = T(-0.5) * of_r[t] * (r[t] * r[t]);
    of_w[t] += slope * of_variance[t] * s.w[t];
  }
  left.of_cls[b] = of_w[0];
  if (n < length) std::fill(g.of_values + b * a.tokens, g.of_values + (b + 1) * a.tokens, T(0));
  for (int64_t t = 1; t < n; ++t) g.of_values[b * a.tokens + s.place[t]] = of_w[t];
}

template <typename T>
KN_INLINE void clear_rows(const GeneMeansBackward<T>& g, int64_t begin, int64_t end) {
  const int64_t stride = g.in.stride, hs = g.in.head_stride;
  std::fill(g.of_centred + begin * stride, g.of_centred + end * stride, T(0));
  std::fill(g.of_scores + begin * hs, g.of_scores + end * hs, T(0));
  std::fill(g.of_means + begin, g.of_means + end, T(0));
  std::fill(g.of_squares + begin, g.of_squares + end, T(0));
}

// Adds what a cell left to the tables' rows [begin, end).
template <typename T>
KN_INLINE void add_cell(const GeneMeansBackward<T>& g, const Left<T>& left, int64_t place,
                        int64_t begin, int64_t end) {
  const GeneTokens<T>& a = g.in;
  const int64_t length = a.tokens + 1, hs = a.head_stride;
  constexpr int64_t v = kVec<T>;
  const T d = static_cast<T>(a.width);
  for (int64_t t = 0; t < left.count[place]; ++t) {
    const int64_t at = place * length + t, row = left.row[at];
    if (row < begin || row >= end) continue;
    g.of_means[row] -= left.of_w[at];
    g.of_squares[row] += left.of_variance[at] / d;
    const T* of_scores = left.of_scores.data() + at * hs;
    const T* u = left.u.data() + at * hs;
    for (int64_t h = 0; h < hs; ++h) g.of_scores[row * hs + h] += of_scores[h];
    T* out = g.of_centred + row * a.stride;
    for (int64_t h = 0; h < hs; h += 4) {
      const T* delta = left.delta.data() + (place * hs + h) * a.stride;
      const T u0 = u[h], u1 = u[h + 1], u2 = u[h + 2], u3 = u[h + 3];
      for (int64_t j = 0; j < a.stride; j += v) {
        const Vec<T>& d0 = *reinterpret_cast<const Vec<T>*>(delta + j);
        const Vec<T>& d1 = *reinterpret_cast<const Vec<T>*>(delta + a.stride + j);
        const Vec<T>& d2 = *reinterpret_cast<const Vec<T>*>(delta + 2 * a.stride + j);
        const Vec<T>& d3 = *reinterpret_cast<const Vec<T>*>(delta + 3 * a.stride + j);
        Vec<T>& sum = *reinterpret_cast<Vec<T>*>(out + j);
        sum += (u0 * d0 + u1 * d1) + (u2 * d2 + u3 * d3);
      }
    }
  }
}

template <typename T>
int team_of(const GeneTokens<T>& a, int threads) {
  const int64_t work = a.cells * a.tokens * a.heads * a.width;
  return work < kSerialWork ? 1 : static_cast<int>(std::min<int64_t>(threads, a.cells));
}

}  // namespace

template <typename T>
Report gene_means_forward(const GeneMeansForward<T>& f, int threads) {
  const GeneTokens<T>& a = f.in;
  for (int64_t i = 0; i < a.cells * a.tokens; ++i)
    if (a.gene_ids[i] >= a.genes) return {1, i / a.tokens, i % a.tokens, a.gene_ids[i], 0, 1};
  const int team = team_of(a, threads);
  Rescue rescue;
#pragma omp parallel num_threads(team) if (team > 1)
  {
    CellScratch<T>& s = scratch_of_thread<CellScratch<T>>();
    Scratch<T>& mixed = s.of_z;  // not used in forward
    rescue.run([&] {
      s.fit(a.tokens + 1);
      mixed.resize(4 * std::max(a.tokens + 1, a.stride));
    });
#pragma omp for schedule(static)
    for (int64_t b = 0; b < a.cells; ++b)
      rescue.run([&] { for_isa<forward_cell<T>>(f, b, s, mixed.data()); });
  }
  rescue.rethrow();
  return {};
}

template <typename T>
void gene_means_backward(const GeneMeansBackward<T>& g, int threads) {
  const GeneTokens<T>& a = g.in;
  const int64_t length = a.tokens + 1, rows = a.genes + 1;
  const int team = team_of(a, threads);
  const int64_t held =
      team > 1 ? a.cells : 1;  // alone, a thread adds each cell while it is in cache
  Left<T>& left = scratch_of_thread<Left<T>>();
  left.delta.resize(held * a.head_stride * a.stride);
  left.of_scores.resize(held * length * a.head_stride);
  left.u.resize(held * length * a.head_stride);
  left.of_w.resize(held * length);
  left.of_variance.resize(held * length);
  left.row.resize(held * length);
  left.count.resize(held);
  left.of_last.resize(a.cells * a.heads);
  left.of_cls.resize(a.cells);
  Rescue rescue;
#pragma omp parallel num_threads(team) if (team > 1)
  {
    CellScratch<T>& s = scratch_of_thread<CellScratch<T>>();
    rescue.run([&] { s.fit(length); });
    if (team == 1) clear_rows(g, 0, rows);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < a.cells; ++b)
      rescue.run([&] {
        for_isa<backward_cell<T>>(g, b, team > 1 ? b : 0, s, left);
        if (team == 1) for_isa<add_cell<T>>(g, left, 0, 0, rows);
      });
    if (team > 1) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < team; ++i) {
        const int64_t begin = rows * i / team, end = rows * (i + 1) / team;
        clear_rows(g, begin, end);
        for (int64_t b = 0; b < a.cells; ++b)
          rescue.run([&] { for_isa<add_cell<T>>(g, left, b, begin, end); });
      }
    }
  }
  rescue.rethrow();
  for (int64_t h = 0; h < a.head_stride; ++h) {
    double all = 0;
    for (int64_t b = 0; h < a.heads && b < a.cells; ++b) all += left.of_last[b * a.heads + h];
    g.of_last[h] = static_cast<T>(all);
  }
  double of_cls = 0;
  for (int64_t b = 0; b < a.cells; ++b) of_cls += static_cast<double>(left.of_cls[b]);
  *g.of_cls_value = static_cast<T>(of_cls);
}

#define KN_INSTANTIATE(T)                                                 \
  template Report gene_means_forward<T>(const GeneMeansForward<T>&, int); \
  template void gene_means_backward<T>(const GeneMeansBackward<T>&, int);

KN_INSTANTIATE(float)
KN_INSTANTIATE(double)

}  // namespace kernomics
