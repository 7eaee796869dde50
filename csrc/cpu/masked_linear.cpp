// masked_linear on the CPU: y_b = Σ_{j∈S} m_j x_bj W_j + bias and its gradients, from the non-zeros
// of x alone. δ is the gradient of y.
//
// Forward: a table of flags marks S; every stored index is read once, a hit adds one row of W.
// Where the table would be far longer than x and S, each index is looked up in S instead.
// Backward: tiles of genes, each owned by one thread, so that the cells of a gene are added in one
// order whatever the number of threads. For a non-zero of cell b and gene j in a tile,
// dm_j += x_bj⟨δ_b, W_j⟩ with δ_b in registers and the tile's rows of W in cache, and for j ∈ S
// dW_j += x_bj δ_b. A dense x is packed to its non-zeros per tile and cell.
// Operations: nnz·H multiply-adds. Bytes: W once, dW once (zeros but for k rows), x twice. The
// floor is the L2 cache: each non-zero fetches a row of W, 512 bytes for H = 128 in float32.
// Sums over H run in 16 fixed lanes (8 for float64): the same bits for every instruction set.
// Limits: genes below 2³¹; the lanes take tile·64 bytes per thread.
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "clones.h"
#include "csr.h"
#include "kernels.h"
#include "lanes.h"
#include "pages.h"
#include "scratch.h"

namespace kernomics {
namespace {

constexpr int64_t kTileBytes = int64_t(1) << 16;   // rows of W that stay in a core's L2 cache
constexpr int64_t kMaxTile = int64_t(1) << 15;     // genes
constexpr int64_t kEntriesPerVisit = 4;            // non-zeros worth a visit of a cell in a tile
constexpr int64_t kSerialWork = int64_t(1) << 14;  // too little to wake other threads for

constexpr int64_t kShortTable = int64_t(1) << 22;  // genes: a table of flags is always worth it

enum Flag : uint8_t { kChosen = 1, kReached = 2 };

KN_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
KN_INLINE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

// out += a·row, n long; element by element, so vectorising does not change a bit.
template <typename T>
KN_INLINE void axpy(T a, const T* row, int64_t n, T* __restrict__ out) {
  for (int64_t h = 0; h < n; ++h) out[h] = fused(a, row[h], out[h]);
}

// ---- soundness ------------------------------------------------------------------------------

// `count` genes that must ascend within [0, genes); with `padded` −1 may fill the end.
Report check_genes(const int64_t* list, int64_t count, int64_t genes, bool padded) {
  const int range = padded ? kLinearReachRange : kLinearChosenRange;
  const int order = padded ? kLinearReachOrder : kLinearChosenOrder;
  int64_t previous = -1;
  bool ended = false;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t j = list[i];
    if (padded && j == -1) {
      ended = true;
      continue;
    }
    if (j < 0 || j >= genes) return {range, 0, i, j, 0, 1};
    if (ended || j <= previous) return {order, 0, i, j, 0, 1};
    previous = j;
  }
  return {};
}

// ---- forward --------------------------------------------------------------------------------

template <typename T, typename C>
KN_INLINE Report forward_csr_row(const LinearLayer<T>& a, const uint8_t* flags,
                                 const int64_t* indptr, T* __restrict__ y) {
  const C* stored = static_cast<const C*>(a.x.columns);
  const Report found = check_csr_row(indptr, stored, a.x.stored, a.x.genes);
  if (found.fault != kCsrFine || y == nullptr) return found;
  const C* columns = stored + indptr[0];
  const T* values = a.x.values + indptr[0];
  const int64_t n = indptr[1] - indptr[0];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t j = columns[i];
    if (flags != nullptr ? flags[j] & kChosen : std::binary_search(a.chosen, a.chosen + a.k, j))
      axpy(values[i] * a.mask[j * a.mask_stride], a.weight + j * a.weight_stride, a.outputs, y);
  }
  return {};
}

template <typename T>
KN_INLINE Report forward_dense_row(const LinearLayer<T>& a, const T* x, T* __restrict__ y) {
  for (int64_t i = 0; i < a.k; ++i) {
    const int64_t j = a.chosen[i];
    const T value = x[j * a.x.column_stride];
    if (value != T(0))
      axpy(value * a.mask[j * a.mask_stride], a.weight + j * a.weight_stride, a.outputs, y);
  }
  return {};
}

template <typename T>
KN_INLINE Report forward_row_impl(const LinearLayer<T>& a, const uint8_t* flags, int64_t b, T* y) {
  if (a.x.indptr == nullptr)
    return y == nullptr ? Report{} : forward_dense_row(a, a.x.values + b * a.x.row_stride, y);
  return a.x.wide_columns ? forward_csr_row<T, int64_t>(a, flags, a.x.indptr + b, y)
                          : forward_csr_row<T, int32_t>(a, flags, a.x.indptr + b, y);
}

KN_CLONES Report forward_row(const LinearLayer<float>& a, const uint8_t* flags, int64_t b,
                             float* y) {
  return forward_row_impl(a, flags, b, y);
}
KN_CLONES Report forward_row(const LinearLayer<double>& a, const uint8_t* flags, int64_t b,
                             double* y) {
  return forward_row_impl(a, flags, b, y);
}

template <typename T>
KN_INLINE bool finite_impl(const T* x, int64_t n) {
  int odd = 0;
  for (int64_t i = 0; i < n; ++i) odd |= x[i] - x[i] != T(0);  // 0 for finite numbers alone
  return odd == 0;
}

KN_CLONES bool all_finite(const float* x, int64_t n) { return finite_impl(x, n); }
KN_CLONES bool all_finite(const double* x, int64_t n) { return finite_impl(x, n); }

// x[row, gene], 0 where nothing is stored.
template <typename T, typename C>
T stored_value(const LinearInput<T>& x, int64_t row, int64_t gene) {
  const C* columns = static_cast<const C*>(x.columns);
  const C *begin = columns + x.indptr[row], *end = columns + x.indptr[row + 1];
  const C* found = std::lower_bound(begin, end, static_cast<C>(gene));
  return found < end && *found == gene ? x.values[found - columns] : T(0);
}

// Whether all that enters a row of y is finite.
template <typename T>
bool finite_terms(const LinearLayer<T>& a, const T* bias, int64_t b) {
  if (bias != nullptr && !all_finite(bias, a.outputs)) return false;
  for (int64_t i = 0; i < a.k; ++i) {
    const int64_t j = a.chosen[i];
    T value;
    if (a.x.indptr == nullptr)
      value = a.x.values[b * a.x.row_stride + j * a.x.column_stride];
    else
      value = a.x.wide_columns ? stored_value<T, int64_t>(a.x, b, j)
                               : stored_value<T, int32_t>(a.x, b, j);
    if (value == T(0)) continue;
    if (!all_finite(&value, 1) || !all_finite(a.mask + j * a.mask_stride, 1) ||
        !all_finite(a.weight + j * a.weight_stride, a.outputs))
      return false;
  }
  return true;
}

// ---- backward -------------------------------------------------------------------------------

// What one thread keeps while it works through its tiles.
template <typename T>
struct TileScratch {
  Scratch<T> lanes;         // [tile, lanes], partial sums of dm
  Scratch<int64_t> cursor;  // [rows], CSR: where the next tile begins
  Scratch<int32_t> genes;   // [tile], non-zeros of one cell that were picked out
  Scratch<T> values;
};

// The non-zeros of one cell in one tile.
template <typename T, typename C>
struct Entries {
  const C* genes;
  const T* values;
  int64_t count;
};

// lanes_j += x_j · Σ_g δ_g ∘ W_jg over N groups of columns, for every entry. The vector types keep
// δ in registers, which gcc does not do for arrays; they have no portable fma.
template <int N, typename T, typename C>
KN_INLINE void dot_groups(const Entries<T, C>& e, const T* delta, const T* weight, int64_t stride,
                          int64_t first_gene, T* lanes) {
  using Vector = Line<T>;
  const Vector* deltas = reinterpret_cast<const Vector*>(delta);
  Vector d[N];
  for (int g = 0; g < N; ++g) d[g] = deltas[g];
  for (int64_t i = 0; i < e.count; ++i) {
    const int64_t j = e.genes[i];
    const Vector* w = reinterpret_cast<const Vector*>(weight + j * stride);
    Vector* lane = reinterpret_cast<Vector*>(lanes + (j - first_gene) * kLine<T>);
    Vector sum = d[0] * w[0];
    for (int g = 1; g < N; ++g) sum += d[g] * w[g];
    *lane += e.values[i] * sum;
  }
}

// The columns that do not fill a group.
template <typename T, typename C>
KN_INLINE void dot_rest(const Entries<T, C>& e, const T* delta, const T* weight, int64_t stride,
                        int64_t rest, int64_t first_gene, T* __restrict__ lanes) {
  for (int64_t i = 0; i < e.count; ++i) {
    const int64_t j = e.genes[i];
    const T* w = weight + j * stride;
    T* lane = lanes + (j - first_gene) * kLine<T>;
    for (int64_t l = 0; l < rest; ++l) lane[l] = fused(e.values[i], delta[l] * w[l], lane[l]);
  }
}

template <typename T, typename C>
KN_INLINE void add_dots(const LinearLayer<T>& a, const Entries<T, C>& e, const T* delta,
                        int64_t first_gene, T* lanes) {
  int64_t h = 0;
  for (; h + 8 * kLine<T> <= a.outputs; h += 8 * kLine<T>)
    dot_groups<8>(e, delta + h, a.weight + h, a.weight_stride, first_gene, lanes);
  for (; h + 2 * kLine<T> <= a.outputs; h += 2 * kLine<T>)
    dot_groups<2>(e, delta + h, a.weight + h, a.weight_stride, first_gene, lanes);
  for (; h + kLine<T> <= a.outputs; h += kLine<T>)
    dot_groups<1>(e, delta + h, a.weight + h, a.weight_stride, first_gene, lanes);
  if (h < a.outputs)
    dot_rest(e, delta + h, a.weight + h, a.weight_stride, a.outputs - h, first_gene, lanes);
}

// Picks out the entries whose flags meet `wanted`; of a dense row those with x ≠ 0.
template <typename T, typename C>
KN_INLINE Entries<T, int32_t> pick(const Entries<T, C>& e, const uint8_t* flags, uint8_t wanted,
                                   TileScratch<T>& s) {
  int64_t n = 0;
  for (int64_t i = 0; i < e.count; ++i) {
    const int64_t j = e.genes[i];
    if (!(flags[j] & wanted)) continue;
    s.genes[n] = static_cast<int32_t>(j);
    s.values[n] = e.values[i];
    ++n;
  }
  return {s.genes.data(), s.values.data(), n};
}

template <typename T>
KN_INLINE Entries<T, int32_t> pick_dense(const T* x, int64_t stride, int64_t begin, int64_t end,
                                         const uint8_t* flags, uint8_t wanted, TileScratch<T>& s) {
  int64_t n = 0;
  for (int64_t j = begin; j < end; ++j) {
    const T value = x[j * stride];
    s.genes[n] = static_cast<int32_t>(j);
    s.values[n] = value;
    n += (value != T(0)) & ((flags[j] & wanted) != 0);
  }
  return {s.genes.data(), s.values.data(), n};
}

// One cell's share of a tile, from all its entries or those picked out.
template <typename T, typename C>
KN_INLINE void add_cell(const LinearBackward<T>& g, const uint8_t* flags, const Entries<T, C>& e,
                        const T* delta, int64_t first_gene, TileScratch<T>& s) {
  const LinearLayer<T>& a = g.layer;
  if (g.grad_weight != nullptr)
    for (int64_t i = 0; i < e.count; ++i) {
      const int64_t j = e.genes[i];
      if (flags[j] & kChosen) axpy(e.values[i], delta, a.outputs, g.grad_weight + j * a.outputs);
    }
  if (g.grad_mask != nullptr) add_dots(a, e, delta, first_gene, s.lanes.data());
}

// All cells' shares of genes [begin, end), in the order of the cells.
template <typename T, typename C>
KN_INLINE void add_tile(const LinearBackward<T>& g, const uint8_t* flags, uint8_t wanted,
                        int64_t begin, int64_t end, TileScratch<T>& s) {
  const LinearLayer<T>& a = g.layer;
  const C* columns = static_cast<const C*>(a.x.columns);
  const bool every_gene = g.grad_mask != nullptr && a.reached == nullptr;
  const bool uses_most = every_gene && (a.x.indptr == nullptr || a.x.stored >= a.x.genes);
  const int64_t next = uses_most ? std::min(end - begin, a.x.genes - end) : 0;
  for (int64_t b = 0; b < a.x.rows; ++b) {
    const T* delta = g.delta + b * g.delta_stride;
    // Brings the next tile of W closer meanwhile.
    for (int64_t j = next * b / a.x.rows; j < next * (b + 1) / a.x.rows; ++j) {
      const T* row = a.weight + (end + j) * a.weight_stride;
      for (int64_t h = 0; h < a.outputs; h += kLine<T>) __builtin_prefetch(row + h, 0, 2);
    }
    if (a.x.indptr == nullptr) {
      const T* x = a.x.values + b * a.x.row_stride;
      add_cell(g, flags, pick_dense(x, a.x.column_stride, begin, end, flags, wanted, s), delta,
               begin, s);
      continue;
    }
    const int64_t first = s.cursor[b], stop = a.x.indptr[b + 1];
    int64_t last = first;
    while (last < stop && columns[last] < end) ++last;
    s.cursor[b] = last;
    const Entries<T, C> e{columns + first, a.x.values + first, last - first};
    if (every_gene)
      add_cell(g, flags, e, delta, begin, s);
    else
      add_cell(g, flags, pick(e, flags, wanted, s), delta, begin, s);
  }
}

template <typename T>
KN_INLINE T sum_lanes(const T* lanes) {
  T s[kLine<T>];
  for (int64_t l = 0; l < kLine<T>; ++l) s[l] = lanes[l];
  for (int64_t half = kLine<T> / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) s[l] += s[l + half];
  return s[0];
}

template <typename T>
KN_INLINE void tile_impl(const LinearBackward<T>& g, const uint8_t* flags, uint8_t wanted,
                         int64_t begin, int64_t end, bool busy, TileScratch<T>& s) {
  const LinearLayer<T>& a = g.layer;
  if (g.grad_weight != nullptr)
    std::memset(g.grad_weight + begin * a.outputs, 0, (end - begin) * a.outputs * sizeof(T));
  if (g.grad_mask != nullptr) std::memset(g.grad_mask + begin, 0, (end - begin) * sizeof(T));
  if (!busy) return;
  if (g.grad_mask != nullptr) std::fill(s.lanes.begin(), s.lanes.end(), T(0));
  if (a.x.wide_columns)
    add_tile<T, int64_t>(g, flags, wanted, begin, end, s);
  else
    add_tile<T, int32_t>(g, flags, wanted, begin, end, s);
  for (int64_t j = begin; j < end; ++j) {
    if (g.grad_mask != nullptr && (flags[j] & kReached))
      g.grad_mask[j] = sum_lanes(s.lanes.data() + (j - begin) * kLine<T>);
    if (g.grad_weight != nullptr && (flags[j] & kChosen)) {
      T* row = g.grad_weight + j * a.outputs;
      for (int64_t h = 0; h < a.outputs; ++h) row[h] *= a.mask[j * a.mask_stride];
    }
  }
}

KN_CLONES void run_tile(const LinearBackward<float>& g, const uint8_t* flags, uint8_t wanted,
                        int64_t begin, int64_t end, bool busy, TileScratch<float>& s) {
  tile_impl(g, flags, wanted, begin, end, busy, s);
}
KN_CLONES void run_tile(const LinearBackward<double>& g, const uint8_t* flags, uint8_t wanted,
                        int64_t begin, int64_t end, bool busy, TileScratch<double>& s) {
  tile_impl(g, flags, wanted, begin, end, busy, s);
}

// For every cell, its first entry at or after a gene.
template <typename T, typename C>
void seek(const LinearLayer<T>& a, int64_t gene, Scratch<int64_t>& cursor) {
  const C* columns = static_cast<const C*>(a.x.columns);
  for (int64_t b = 0; b < a.x.rows; ++b)
    cursor[b] = std::lower_bound(columns + a.x.indptr[b], columns + a.x.indptr[b + 1],
                                 static_cast<C>(gene)) -
                columns;
}

// Genes per tile: rows of W that fit the cache; more when x is so sparse that a visit of a cell
// would find nothing; fewer when there would not be four tiles a thread.
template <typename T>
int64_t tile_genes(const LinearLayer<T>& a, int threads) {
  const int64_t row_bytes = a.outputs * static_cast<int64_t>(sizeof(T));
  int64_t tile = kTileBytes / std::max<int64_t>(1, row_bytes);
  if (a.x.indptr == nullptr)
    tile *= 2;  // longer strips of x
  else
    tile = std::max(tile, kEntriesPerVisit * a.x.rows * a.x.genes / (a.x.stored + 1));
  tile = std::min({tile, kMaxTile, (a.x.genes + 4 * threads - 1) / (4 * threads)});
  return std::max<int64_t>(tile, 16);
}

template <typename T>
Scratch<uint8_t> flag_genes(const LinearLayer<T>& a, bool reach_all) {
  Scratch<uint8_t> flags(a.x.genes, reach_all ? kReached : 0);
  for (int64_t i = 0; i < a.k; ++i) flags[a.chosen[i]] |= kChosen;
  for (int64_t i = 0; i < a.reach && a.reached[i] >= 0; ++i) flags[a.reached[i]] |= kReached;
  return flags;
}

template <typename T>
int team_size(const LinearLayer<T>& a, int threads, int64_t tasks) {
  const int64_t entries = a.x.indptr != nullptr ? a.x.stored : a.x.rows * a.x.genes;
  return entries < kSerialWork ? 1 : static_cast<int>(std::min<int64_t>(threads, tasks));
}

}  // namespace

template <typename T>
Report masked_linear_forward(const LinearForward<T>& f, int threads) {
  const LinearLayer<T>& a = f.layer;
  const T* bias = f.bias;
  T* y = f.y;
  Report report = check_genes(a.chosen, a.k, a.x.genes, false);
  if (report.fault == 0) report = check_genes(a.reached, a.reach, a.x.genes, true);
  if (report.fault != 0) return report;
  const bool worth_it = a.x.genes <= std::max(kShortTable, 16 * (a.x.stored + a.k));
  const bool table = a.x.indptr != nullptr && y != nullptr && worth_it;
  const Scratch<uint8_t> flags = table ? flag_genes(a, false) : Scratch<uint8_t>();
  const int team = team_size(a, threads, a.x.rows);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t b = 0; b < a.x.rows; ++b) {
    T* row = y == nullptr ? nullptr : y + b * a.outputs;
    if (row != nullptr && bias != nullptr) std::copy(bias, bias + a.outputs, row);
    if (row != nullptr && bias == nullptr) std::fill(row, row + a.outputs, T(0));
    Report found = forward_row(a, table ? flags.data() : nullptr, b, row);
    if (found.fault == 0 && row != nullptr && !all_finite(row, a.outputs) &&
        finite_terms(a, bias, b))
      found = {kLinearOverflow, b, 0, 0, 0, 1};
    if (found.fault == 0) continue;
    found.row = b;
#pragma omp critical
    keep_first(report, found);
  }
  return report;
}

template <typename T>
void masked_linear_backward(const LinearBackward<T>& g, int threads) {
  const LinearLayer<T>& a = g.layer;
  if (g.grad_weight != nullptr)
    prefer_huge_pages(g.grad_weight, a.x.genes * a.outputs * static_cast<int64_t>(sizeof(T)));
  if (g.grad_bias != nullptr) {
    std::fill(g.grad_bias, g.grad_bias + a.outputs, T(0));
    for (int64_t b = 0; b < a.x.rows; ++b)
      for (int64_t h = 0; h < a.outputs; ++h) g.grad_bias[h] += g.delta[b * g.delta_stride + h];
  }
  if (g.grad_weight == nullptr && g.grad_mask == nullptr) return;
  const bool reach_all = g.grad_mask != nullptr && a.reached == nullptr;
  const Scratch<uint8_t> flags = flag_genes(a, reach_all);
  const uint8_t wanted = (g.grad_mask != nullptr ? kReached : 0) |
                         (g.grad_weight != nullptr && !reach_all ? kChosen : 0);
  const int64_t tile = tile_genes(a, threads);
  const int64_t tiles = (a.x.genes + tile - 1) / tile;
  const int team = team_size(a, threads, tiles);
  // A few consecutive tiles at a time: the cursors move on from one to the next.
  const int64_t run = std::max<int64_t>(1, tiles / (8 * team));
  const int64_t runs = (tiles + run - 1) / run;
  const auto run_tiles = [&](int64_t r, TileScratch<T>& s) {
    bool placed = false;
    for (int64_t t = r * run; t < std::min(tiles, (r + 1) * run); ++t) {
      const int64_t begin = t * tile, end = std::min(a.x.genes, begin + tile);
      const bool busy = std::any_of(flags.begin() + begin, flags.begin() + end,
                                    [wanted](uint8_t f) { return (f & wanted) != 0; });
      if (busy && !placed && a.x.indptr != nullptr) {
        if (a.x.wide_columns)
          seek<T, int64_t>(a, begin, s.cursor);
        else
          seek<T, int32_t>(a, begin, s.cursor);
      }
      placed = busy;
      run_tile(g, flags.data(), wanted, begin, end, busy, s);
    }
  };
  Rescue rescue;
#pragma omp parallel num_threads(team) if (team > 1)
  {
    TileScratch<T> s;
    rescue.run([&] {
      s.lanes.resize(g.grad_mask != nullptr ? tile * kLine<T> : 0);
      s.cursor.resize(a.x.indptr != nullptr ? a.x.rows : 0);
      s.genes.resize(tile);
      s.values.resize(tile);
    });
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < runs; ++r) rescue.run([&] { run_tiles(r, s); });
  }
  rescue.rethrow();
}

#define KN_INSTANTIATE(T)                                                 \
  template Report masked_linear_forward<T>(const LinearForward<T>&, int); \
  template void masked_linear_backward<T>(const LinearBackward<T>&, int);

KN_INSTANTIATE(float)
KN_INSTANTIATE(double)

}  // namespace kernomics
