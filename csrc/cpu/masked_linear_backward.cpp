// masked_linear's gradients on the CPU, from the non-zeros of x alone. δ is the gradient of y.
//
// Tiles of genes, each owned by one thread, so that the cells of a gene are added in one order
// whatever the number of threads. For a non-zero of cell b and gene j in a tile,
// dm_j += x_bj⟨δ_b, W_j⟩ with δ_b in registers and the tile's rows of W in cache, and for j ∈ S
// dW_j += x_bj δ_b; asked for a compact dW, only the rows of S are written. A dense x is packed to
// its non-zeros per tile and cell. Operations: nnz·H multiply-adds. Bytes: W once, dW once (zeros
// but for k rows), x twice. The floor is the L2 cache: each non-zero fetches a row of W, 512 bytes
// for H = 128 in float32. Sums over H run in 16 fixed lanes (8 for float64): the same bits for
// every instruction set. Limits: genes below 2³¹; the lanes take tile·64 bytes per thread.
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "csr.h"
#include "isa.h"
#include "lanes.h"
#include "masked_linear.h"
#include "pages.h"

namespace kernomics {
namespace {

constexpr int64_t kTileBytes = int64_t(1) << 16;  // rows of W that stay in a core's L2 cache
constexpr int64_t kMaxTile = int64_t(1) << 15;    // genes
constexpr int64_t kEntriesPerVisit = 4;           // non-zeros worth a visit of a cell in a tile

// What one thread keeps while it works through its tiles.
template <typename T>
struct TileScratch {
  Scratch<T> lanes;         // [tile, lanes], partial sums of dm
  Scratch<int64_t> cursor;  // [rows], CSR: where the next tile begins
  Scratch<int32_t> genes;   // [tile], non-zeros of one cell that were picked out
  Scratch<T> values;
  Scratch<int32_t> places;  // [tile], if compact: where the rows of dW of chosen genes are
};

// The row of dW of a chosen gene of a tile.
template <typename T>
KN_INLINE T* weight_row(const LinearBackward<T>& g, int64_t j, int64_t begin, TileScratch<T>& s) {
  return g.grad_weight + (g.compact ? s.places[j - begin] : j) * g.layer.outputs;
}

// Clears the tile's rows of dW and, if compact, notes where they are.
template <typename T>
KN_INLINE void clear_rows(const LinearBackward<T>& g, int64_t begin, int64_t end,
                          TileScratch<T>& s) {
  const LinearLayer<T>& a = g.layer;
  int64_t first = begin, last = end;
  if (g.compact) {
    first = std::lower_bound(a.chosen, a.chosen + a.k, begin) - a.chosen;
    last = std::lower_bound(a.chosen + first, a.chosen + a.k, end) - a.chosen;
    for (int64_t i = first; i < last; ++i) s.places[a.chosen[i] - begin] = static_cast<int32_t>(i);
  }
  std::memset(g.grad_weight + first * a.outputs, 0, (last - first) * a.outputs * sizeof(T));
}

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
      if (flags[j] & kChosen) axpy(e.values[i], delta, a.outputs, weight_row(g, j, first_gene, s));
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
KN_INLINE void run_tile(const LinearBackward<T>& g, const uint8_t* flags, uint8_t wanted,
                        int64_t begin, int64_t end, bool busy, TileScratch<T>& s) {
  const LinearLayer<T>& a = g.layer;
  if (g.grad_weight != nullptr) clear_rows(g, begin, end, s);
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
      T* row = weight_row(g, j, begin, s);
      for (int64_t h = 0; h < a.outputs; ++h) row[h] *= a.mask[j * a.mask_stride];
    }
  }
}

// For every cell, its first entry at or after a gene.
template <typename T, typename C>
void seek(const LinearLayer<T>& a, int64_t gene, Scratch<int64_t>& cursor) {
  const C* columns = static_cast<const C*>(a.x.columns);
  for (int64_t b = 0; b < a.x.rows; ++b) cursor[b] = seek_entry(a.x.indptr, columns, b, gene);
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

}  // namespace

template <typename T>
void masked_linear_backward(const LinearBackward<T>& g, int threads) {
  const LinearLayer<T>& a = g.layer;
  if (g.grad_weight != nullptr && !g.compact)
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
      for_isa<run_tile<T>>(g, flags.data(), wanted, begin, end, busy, s);
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
      s.places.resize(g.compact ? tile : 0);
    });
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < runs; ++r) rescue.run([&] { run_tiles(r, s); });
  }
  rescue.rethrow();
}

template void masked_linear_backward<float>(const LinearBackward<float>&, int);
template void masked_linear_backward<double>(const LinearBackward<double>&, int);

}  // namespace kernomics
