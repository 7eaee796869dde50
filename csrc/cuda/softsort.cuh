// SoftSort's and softmax's relaxed masks and their gradients; the formulas are in
// common/softsort.h and cpu/relaxation.cpp.
//
// Three kernels, so that a single long row fills the chip as well as many rows do:
//   sum_blocks    T = Σ e_j and U = Σ e_j u_j over the genes that did not win, per 1,024 genes;
//   scan_rows     per row: sort the winners, run the recurrences as parallel scans of affine maps
//                 (x ↦ (x + v)·d is associative under composition), write the winners' results;
//   write_others  all other genes, from a few coefficients of their row.
// The float32 sums run in the CPU's order: 16 lanes over blocks of 1,024 genes, then double.
// Softmax is the same without winners: e_j = exp((y_j − max)/τ).
#pragma once

#include "choose.cuh"

namespace kernomics {

constexpr int kSumBlock = 1024, kSumLanes = 16;
constexpr int kScanThreads = 256;
constexpr int kWriteThreads = 256;
constexpr int kSharedWinners = 448;  // rows with more keep their scans in scratch

struct BlockSums {
  double t, u, tied, tied_u;  // `tied`: genes that did not win but equal the last winner; e = 1
  Census census;
};

enum RowState : int { kStateOrdinary, kStateNoFinite, kStateBroken };

// What the rest of a row needs to know of its winners.
template <typename T>
struct RowCoefficients {
  double outsider;  // Γ_j = outsider·e_j
  T anchor;         // e_j = exp((y_j − anchor)/τ)
  int edge;         // genes at the anchor have won up to this index
  int state;
  T slope, offset;          // gradient e_j (u_j slope − offset)
  T tie_slope, tie_offset;  // of genes at the anchor
};

template <typename T>
struct RelaxedArgs {
  const T* y;
  const int64_t* indices;
  const T* u;  // null for Γ itself
  T* out;      // gradient or Γ; null when only the coefficients are wanted
  int64_t rows;
  int genes, k, relaxation;
  double tau;
  bool pack;                         // 16-byte accesses of y, u and out are aligned
  int blocks;                        // of 1,024 genes in a row
  BlockSums* sums;                   // [rows, blocks]
  RowCoefficients<T>* coefficients;  // [rows]
  unsigned char* scans;              // scratch of scan_rows' blocks, or null
  int64_t* reached;                  // grad_indices [rows, reach]
  int64_t reach;
};

// exp(min(x − anchor, 0)/τ), the CPU's bits for float32.
template <typename T>
__device__ __forceinline__ T weight(T x, T anchor, T scale) {
  const T below = add(x, -anchor);
  return exp_nonpositive(mul(below < T(0) ? below : T(0), scale));
}

template <typename T>
__device__ __forceinline__ bool has_won(T x, int j, T anchor, int edge) {
  return x > anchor || (x == anchor && j <= edge);
}

template <typename T>
struct Anchor {
  T value;
  int edge;
};

// SoftSort: the last winner. Softmax: the largest score, and no gene counts as a winner.
template <typename T>
__device__ Anchor<T> find_anchor(Block& b, const RelaxedArgs<T>& a, int64_t row) {
  const T inf = KeyOf<T>::value(KeyOf<T>::kForced);
  const bool lowest = a.relaxation == kSoftSort;
  T best = lowest ? inf : -inf;
  int edge = -1;
  for (int i = b.thread; i < a.k; i += b.threads) {
    const int j = static_cast<int>(a.indices[row * a.k + i]);
    const T x = a.y[row * a.genes + j];
    if (!(x > -inf && x < inf)) continue;
    if (!lowest) {
      best = x > best ? x : best;
    } else if (x < best || (x == best && j > edge)) {
      best = x;
      edge = j;
    }
  }
  const T value = lowest ? b.min(best) : b.max(best);
  return {value, b.max(best == value ? edge : -1)};
}

// Grid: rows × ceil(blocks / (threads / 16)); each half-warp sums one block of 1,024 genes.
template <typename T>
__global__ void __launch_bounds__(kWriteThreads) sum_blocks(RelaxedArgs<T> a) {
  __shared__ BlockSlots slots;
  Block b(slots);
  const int teams = b.threads / kSumLanes, groups = (a.blocks + teams - 1) / teams;
  const int64_t row = blockIdx.x / groups;
  const int block = static_cast<int>(blockIdx.x % groups) * teams + b.thread / kSumLanes;
  const Anchor<T> anchor = find_anchor(b, a, row);
  const T scale = static_cast<T>(1.0 / a.tau), inf = KeyOf<T>::value(KeyOf<T>::kForced);
  const T* y = a.y + row * a.genes;
  const T* u = a.u == nullptr ? nullptr : a.u + row * a.genes;

  T t = 0, tu = 0;
  BlockSums sums{0, 0, 0, 0, {0, 0, 0, 0}};
  const int64_t begin = static_cast<int64_t>(block) * kSumBlock;
#pragma unroll 8
  for (int i = 0; i < kSumBlock / kSumLanes; ++i) {
    const int64_t j = begin + i * kSumLanes + b.thread % kSumLanes;
    if (j >= a.genes) continue;
    const T x = y[j], uj = u == nullptr ? T(0) : u[j];
    if (!(x > -inf && x < inf)) {
      count_special<T>(KeyOf<T>::key(x), sums.census);
    } else if (!has_won(x, static_cast<int>(j), anchor.value, anchor.edge)) {
      const T e = weight(x, anchor.value, scale);
      if (x == anchor.value) {
        sums.tied += 1;
        sums.tied_u += static_cast<double>(uj);
      } else {
        t = add(t, e);
        tu = add(tu, mul(e, uj));
      }
    }
  }
  sums.t = static_cast<double>(t);
  sums.u = static_cast<double>(tu);
  for (int step = kSumLanes / 2; step > 0; step /= 2) {
    sums.t += __shfl_xor_sync(kAllLanes, sums.t, step);
    sums.u += __shfl_xor_sync(kAllLanes, sums.u, step);
    sums.tied += __shfl_xor_sync(kAllLanes, sums.tied, step);
    sums.tied_u += __shfl_xor_sync(kAllLanes, sums.tied_u, step);
    sums.census.nan += __shfl_xor_sync(kAllLanes, sums.census.nan, step);
    sums.census.forced += __shfl_xor_sync(kAllLanes, sums.census.forced, step);
    sums.census.forbidden += __shfl_xor_sync(kAllLanes, sums.census.forbidden, step);
  }
  if (block < a.blocks && b.thread % kSumLanes == 0) a.sums[row * a.blocks + block] = sums;
}

// The arrays of one row's scans, in shared memory or scratch.
template <typename T>
struct WinnerScans {
  Entry<T>* entries;
  double *d, *w, *left, *right, *a, *b, *fu, *hu, *fwm, *hwm;

  static constexpr int kArrays = 10;

  static __host__ __device__ size_t bytes(int64_t k) {
    return static_cast<size_t>(k) * (sizeof(Entry<T>) + kArrays * sizeof(double));
  }
  __device__ WinnerScans(unsigned char* base, int64_t k) {
    entries = reinterpret_cast<Entry<T>*>(base);
    double* next = reinterpret_cast<double*>(entries + k);
    for (double** array : {&d, &w, &left, &right, &a, &b, &fu, &hu, &fwm, &hwm}) {
      *array = next;
      next += k;
    }
  }
};

// x ↦ a·x + s
struct Affine {
  double a, s;

  __device__ double operator()(double x) const { return a * x + s; }
  __device__ Affine after(const Affine& first) const { return {a * first.a, a * first.s + s}; }
};

__device__ inline Affine shuffle_up(const Affine& f, int step) {
  return {__shfl_up_sync(kAllLanes, f.a, step), __shfl_up_sync(kAllLanes, f.s, step)};
}
__device__ inline Affine shuffle_down(const Affine& f, int step) {
  return {__shfl_down_sync(kAllLanes, f.a, step), __shfl_down_sync(kAllLanes, f.s, step)};
}

struct ScanSlots {
  Affine down[kMaxWarps], up[kMaxWarps];
};

// F(v) into `down` and H(v, x) into `up`. Each thread composes the maps of a stretch of winners,
// the block scans the compositions, then each thread walks its stretch. v(i) may read anything but
// the outputs. Ends with a barrier.
template <typename V>
__device__ void scan_both(const Block& b, ScanSlots& slots, V v, const double* d, int k, double x,
                          double* down, double* up) {
  const int stretch = (k - 1) / b.threads + 1;
  const int64_t start = static_cast<int64_t>(b.thread) * stretch;
  const int begin = static_cast<int>(start < k ? start : k);
  const int end = begin + stretch < k ? begin + stretch : k;
  Affine falling{1, 0}, rising{1, 0};
  for (int i = begin; i < end; ++i) falling = Affine{d[i], v(i) * d[i]}.after(falling);
  for (int i = end - 1; i >= begin && i > 0; --i)
    rising = Affine{d[i - 1], v(i) * d[i - 1]}.after(rising);
  for (int step = 1; step < kWarpSize; step *= 2) {
    const Affine earlier = shuffle_up(falling, step), later = shuffle_down(rising, step);
    if (b.lane >= step) falling = falling.after(earlier);
    if (b.lane + step < kWarpSize) rising = rising.after(later);
  }
  if (b.lane == kWarpSize - 1) slots.down[b.warp] = falling;
  if (b.lane == 0) slots.up[b.warp] = rising;
  falling = shuffle_up(falling, 1);
  rising = shuffle_down(rising, 1);
  __syncthreads();
  double carry = 0;
  for (int w = 0; w < b.warp; ++w) carry = slots.down[w](carry);
  if (b.lane > 0) carry = falling(carry);
  for (int i = begin; i < end; ++i) {
    down[i] = carry;
    carry = (carry + v(i)) * d[i];
  }
  carry = x;
  for (int w = b.warps - 1; w > b.warp; --w) carry = slots.up[w](carry);
  if (b.lane < kWarpSize - 1) carry = rising(carry);
  for (int i = end - 1; i >= begin; --i) {
    up[i] = carry;
    if (i > 0) carry = (carry + v(i)) * d[i - 1];
  }
  __syncthreads();
}

__device__ inline BlockSums total_sums(Block& b, const BlockSums* sums, int blocks) {
  BlockSums total{0, 0, 0, 0, {0, 0, 0, 0}};
  for (int i = b.thread; i < blocks; i += b.threads) {
    const BlockSums& part = sums[i];
    total.t += part.t;
    total.u += part.u;
    total.tied += part.tied;
    total.tied_u += part.tied_u;
    total.census.nan += part.census.nan;
    total.census.forced += part.census.forced;
    total.census.forbidden += part.census.forbidden;
  }
  return {b.sum(total.t), b.sum(total.u), b.sum(total.tied), b.sum(total.tied_u),
          sum_census(b, total.census)};
}

// The recurrences of one row with k finite winners: writes their results and fills `row_out`.
template <typename T>
__device__ void scan_winners(Block& b, ScanSlots& slots, const RelaxedArgs<T>& a, int64_t row,
                             const BlockSums& sums, WinnerScans<T> s, RowCoefficients<T>& row_out) {
  const T* y = a.y + row * a.genes;
  const double inv_tau = 1.0 / a.tau;
  const double total = sums.t + sums.tied, total_u = sums.u + sums.tied_u;
  for (int i = b.thread; i < a.k; i += b.threads) {
    const int j = static_cast<int>(a.indices[row * a.k + i]);
    s.entries[i] = {KeyOf<T>::key(y[j]), j};
  }
  sort_entries(b, s.entries, a.k);
  const Entry<T>* winners = s.entries + sums.census.forced;  // forced genes sort first
  const int k = a.k - sums.census.forced;
  for (int i = b.thread; i < k; i += b.threads)
    s.d[i] = i + 1 < k ? exp(-(winners[i].value() - winners[i + 1].value()) / a.tau) : 0.0;
  __syncthreads();
  const double *d = s.d, *w = s.w, *fu = s.fu, *hu = s.hu;
  scan_both(b, slots, [](int) { return 1.0; }, d, k, total, s.left, s.right);
  for (int i = b.thread; i < k; i += b.threads) s.w[i] = 1.0 / (1.0 + s.left[i] + s.right[i]);
  __syncthreads();
  scan_both(b, slots, [w](int i) { return w[i]; }, d, k, 0.0, s.a, s.b);

  row_out.outsider = w[k - 1] + s.a[k - 1];
  row_out.anchor = KeyOf<T>::value(winners[k - 1].key);
  row_out.edge = winners[k - 1].index;
  if (a.out == nullptr) return;
  T* out = a.out + row * a.genes;
  if (a.u == nullptr) {
    for (int i = b.thread; i < k; i += b.threads)
      out[winners[i].index] = static_cast<T>(w[i] + s.a[i] + s.b[i]);
    return;
  }
  const T* u = a.u + row * a.genes;
  const auto u_of = [winners, u](int i) { return static_cast<double>(u[winners[i].index]); };
  scan_both(b, slots, u_of, d, k, total_u, s.fu, s.hu);
  const auto m_of = [=](int i) { return w[i] * (u_of(i) + fu[i] + hu[i]); };
  const auto wm_of = [=](int i) { return w[i] * m_of(i); };
  scan_both(b, slots, wm_of, d, k, 0.0, s.fwm, s.hwm);

  const int edge = tie_first(winners, k - 1);
  row_out.slope = static_cast<T>(row_out.outsider * inv_tau);
  row_out.offset = static_cast<T>((wm_of(k - 1) + s.fwm[k - 1]) * inv_tau);
  row_out.tie_slope = static_cast<T>(s.a[edge] * inv_tau);
  row_out.tie_offset = static_cast<T>(s.fwm[edge] * inv_tau);
  for (int i = b.thread; i < k; i += b.threads) {
    const int f = tie_first(winners, i), l = tie_last(winners, k, i);
    // The strict H and R of the last tie group start from the sums without its other genes.
    const double h = l == k - 1 ? sums.u : hu[l], r = l == k - 1 ? sums.t : s.right[l];
    const double m = m_of(i);
    const double slope = u_of(i) * (s.a[f] - s.b[l]) - s.fwm[f] + s.hwm[l] +
                         w[i] * (fu[f] - m * s.left[f]) - w[i] * (h - m * r);
    out[winners[i].index] = static_cast<T>(slope * inv_tau);
  }
}

// Grid: any number of blocks; each takes every gridDim.x-th row and has its own part of a.scans.
template <typename T>
__global__ void __launch_bounds__(kScanThreads) scan_rows(RelaxedArgs<T> a) {
  __shared__ BlockSlots slots;
  __shared__ ScanSlots scan_slots;
  Block b(slots);
  unsigned char* base =
      a.scans == nullptr ? dynamic_shared() : a.scans + blockIdx.x * WinnerScans<T>::bytes(a.k);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const BlockSums sums = total_sums(b, a.sums + row * a.blocks, a.blocks);
    RowCoefficients<T> c{};
    const int finite = a.k - sums.census.forced;
    if (judge_row(sums.census, a.genes, a.k).x != kRowFine) {
      c.state = kStateBroken;
    } else if (finite == 0) {
      c.state = kStateNoFinite;
    } else if (a.relaxation == kSoftSort) {
      scan_winners(b, scan_slots, a, row, sums, WinnerScans<T>(base, a.k), c);
    } else {
      const double total = sums.t + sums.tied, slope = finite / (total * a.tau);
      const Anchor<T> top = find_anchor(b, a, row);
      c.anchor = top.value;
      c.edge = top.edge;
      c.outsider = finite / total;
      c.slope = c.tie_slope = static_cast<T>(slope);
      c.offset = c.tie_offset = static_cast<T>(slope * ((sums.u + sums.tied_u) / total));
    }
    if (b.thread == 0) a.coefficients[row] = c;
    __syncthreads();  // before the next row reuses the arrays
  }
}

// Grid: rows × ceil(genes / 1024). Winners of SoftSort are left as scan_rows wrote them.
template <typename T>
__global__ void __launch_bounds__(kWriteThreads) write_others(RelaxedArgs<T> a) {
  constexpr int kTile = 4 * kWriteThreads;
  const int tiles = (a.genes - 1) / kTile + 1;
  const int64_t row = blockIdx.x / tiles;
  const int tile = static_cast<int>(blockIdx.x % tiles) * kTile;
  const int thread = static_cast<int>(threadIdx.x);
  const RowCoefficients<T> c = a.coefficients[row];
  const T scale = static_cast<T>(1.0 / a.tau), inf = KeyOf<T>::value(KeyOf<T>::kForced);
  const T gamma_slope = static_cast<T>(c.outsider);
  const T* y = a.y + row * a.genes;
  const T* u = a.u == nullptr ? nullptr : a.u + row * a.genes;
  T* out = a.out + row * a.genes;

  const bool packed = a.pack && tile + kTile <= a.genes;
  const int first = packed ? tile + 4 * thread : tile + thread, step = packed ? 1 : kWriteThreads;
  Pack<T> x{}, v{};
  if (packed) {
    x = *reinterpret_cast<const Pack<T>*>(y + first);
    if (u != nullptr) v = *reinterpret_cast<const Pack<T>*>(u + first);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = first + i * step;
      x.at[i] = j < a.genes ? y[j] : T(0);
      v.at[i] = j < a.genes && u != nullptr ? u[j] : T(0);
    }
  }
  bool mine[4], all = packed;  // which of the four are to be written here
  Pack<T> result;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int j = first + i * step;
    const T xi = x.at[i], ui = v.at[i];
    mine[i] = j < a.genes;
    if (c.state == kStateBroken) {
      result.at[i] = not_a_number<T>();
    } else if (xi == inf || c.state == kStateNoFinite) {
      result.at[i] = xi == inf && u == nullptr ? T(1) : T(0);
    } else if (has_won(xi, j, c.anchor, c.edge)) {
      mine[i] = false;
    } else {
      const T e = weight(xi, c.anchor, scale);
      const bool tied = xi == c.anchor;
      const T slope = tied ? c.tie_slope : c.slope, offset = tied ? c.tie_offset : c.offset;
      result.at[i] = u == nullptr ? mul(e, gamma_slope) : mul(e, add(mul(ui, slope), -offset));
    }
    all = all && mine[i];
  }
  if (all) {
    *reinterpret_cast<Pack<T>*>(out + first) = result;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (mine[i]) out[first + i * step] = result.at[i];
  }
}

// SoftSort's reach, from the coefficients of scan_rows. Grid: rows.
template <typename T>
__global__ void __launch_bounds__(kMemoryThreads, 1) reach_rows(RelaxedArgs<T> a, int survivors) {
  using Key = typename KeyOf<T>::Key;
  __shared__ BlockSlots slots;
  Block b(slots);
  const int64_t row = blockIdx.x;
  const RowCoefficients<T> c = a.coefficients[row];
  const T* y = a.y + row * a.genes;
  int found = 0;
  if (c.state == kStateOrdinary) {
    const T scale = static_cast<T>(1.0 / a.tau), floor = static_cast<T>(kReachFloor / c.outsider);
    for (int j = b.thread; j < a.genes; j += b.threads)
      found += !has_won(y[j], j, c.anchor, c.edge) && weight(y[j], c.anchor, scale) >= floor;
  }
  const int64_t wanted = static_cast<int64_t>(a.k) + b.sum(found);
  const int count =
      c.state == kStateBroken ? 0 : static_cast<int>(wanted < a.reach ? wanted : a.reach);
  int64_t* out = a.reached + row * a.reach;
  if (count > 0) {
    const auto at = [y](int j) { return KeyOf<T>::key(y[j]); };
    Key* keys = reinterpret_cast<Key*>(dynamic_shared());
    select_largest(b, at, a.genes, count, sweep_range<Key>(b, at, a.genes),
                   Survivors<Key>{keys, reinterpret_cast<int*>(keys + survivors), survivors},
                   [out](int j, int p) { out[p] = j; });
  }
  for (int64_t p = count + b.thread; p < a.reach; p += b.threads) out[p] = -1;
}

}  // namespace kernomics
