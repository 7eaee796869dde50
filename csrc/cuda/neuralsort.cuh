// NeuralSort's relaxed top-k mask, its gradient and its reach, one block per row.
//
//   Γ_r = Σ_{i<k'} p_i(r), p_i = softmax of row i's logits z_i over the sorted scores t_0 ≥ t_1 ≥ …
//
// 1. Select and sort a window of the best genes, doubled until row k'−1, which reaches furthest
//    down, gives the rest no weight.
// 2. A warp per row i: Σ e^{z_i} and Σ e^{z_i} u, with z_i(r) − z_i(r+1) =
//    (t_r − t_{r+1})(2(r−i)+1)/τ as running sums outward from the peak at r = i.
// 3. A thread per gene r walks the rows outward from i = r, where all steps have one sign too:
//    z_i(r) = z_{i+1}(r) − [(t_i − t_r) + (t_{i+1} − t_r)]/τ for i < r,
//    z_i(r) = z_{i−1}(r) − [(t_r − t_{i−1}) + (t_r − t_i)]/τ for i > r.
// So no sum of logits cancels, nothing of size k·G is stored, and no atomics are needed.
// O(window·k') time, O(window) memory: shared when it fits, else scratch.
#pragma once

#include "softsort.cuh"

namespace kernomics {

constexpr int kNeuralThreads = 512;
constexpr int kSharedWindow = 1024;  // genes; more are kept in scratch

template <typename T>
struct WindowArrays {
  Entry<T>* entries;               // sorted, forced genes first
  double *z, *c, *slope, *before;  // before: sums of c, one more than there are genes
  double *scale, *mean;            // of the rows

  static constexpr int kArrays = 6;

  static __host__ __device__ size_t bytes(int64_t capacity) {
    return static_cast<size_t>(capacity) * (sizeof(Entry<T>) + kArrays * sizeof(double)) + 16;
  }
  __device__ WindowArrays(unsigned char* base, int64_t capacity) {
    entries = reinterpret_cast<Entry<T>*>(base);
    double* next = reinterpret_cast<double*>(entries + capacity);
    for (double** array : {&z, &c, &slope, &scale, &mean, &before}) {
      *array = next;
      next += capacity;
    }
  }
};

// out[i] = x(0) + … + x(i − 1) for i in [0, n]; returns the total. Ends with a barrier.
template <typename X>
__device__ double sum_before(Block& b, int n, X x, double* out) {
  const int stretch = (n - 1) / b.threads + 1;
  const int64_t start = static_cast<int64_t>(b.thread) * stretch;
  const int begin = static_cast<int>(start < n ? start : n);
  const int end = begin + stretch < n ? begin + stretch : n;
  double own = 0;
  for (int i = begin; i < end; ++i) own += x(i);
  double upto = own;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const double earlier = __shfl_up_sync(kAllLanes, upto, step);
    if (b.lane >= step) upto += earlier;
  }
  const double warp_total = __shfl_sync(kAllLanes, upto, kWarpSize - 1);
  const uint64_t* words = b.exchange(static_cast<uint64_t>(__double_as_longlong(warp_total)));
  double carry = 0, total = 0;
  for (int w = 0; w < b.warps; ++w) {
    const double part = __longlong_as_double(static_cast<int64_t>(words[w]));
    if (w < b.warp) carry += part;
    total += part;
  }
  const double before_lane = __shfl_up_sync(kAllLanes, upto, 1);
  if (b.lane > 0) carry += before_lane;
  for (int i = begin; i < end; ++i) {
    out[i] = carry;
    carry += x(i);
  }
  if (b.thread == 0) out[n] = total;
  __syncthreads();
  return total;
}

// One direction of a row's logits, from the peak outward: step(q) >= 0 is the fall at distance
// q = 0, 1, …, and gene(q) where it leads. Adds Σ e^z and Σ e^z u over this lane.
template <typename T, typename Step, typename Value>
__device__ void add_outward(const Block& b, int n, double floor, Step step, Value value,
                            double& sum, double& sum_u) {
  double carry = 0;
  for (int base = 0; base < n; base += kWarpSize) {
    const int q = base + b.lane;
    double z = q < n ? -step(q) : 0.0;
    for (int s = 1; s < kWarpSize; s *= 2) {
      const double earlier = __shfl_up_sync(kAllLanes, z, s);
      if (b.lane >= s) z += earlier;
    }
    z += carry;
    if (q < n && z >= floor) {
      const double e = static_cast<double>(exp_nonpositive(static_cast<T>(z)));
      sum += e;
      sum_u += e * value(q);
    }
    carry = __shfl_sync(kAllLanes, z, kWarpSize - 1);
    if (carry < floor) return;
  }
}

template <typename T>
struct NeuralRow {
  const Entry<T>* entries;  // of finite genes
  int k, size;              // k', and the genes of the window
  double inv_tau, floor;

  __device__ double t(int r) const { return entries[r].value(); }
};

// Scale 1/Σe and mean Σ e u / Σ e of every row.
template <typename T>
__device__ void neural_rows(const Block& b, const NeuralRow<T>& s, const T* u,
                            const WindowArrays<T>& w) {
  const auto u_of = [&](int r) {
    return u == nullptr ? 0.0 : static_cast<double>(u[s.entries[r].index]);
  };
  for (int i = b.warp; i < s.k; i += b.warps) {
    double sum = b.lane == 0 ? 1.0 : 0.0, sum_u = b.lane == 0 ? u_of(i) : 0.0;  // the peak
    add_outward<T>(
        b, s.size - 1 - i, s.floor,
        [&](int q) { return (s.t(i + q) - s.t(i + q + 1)) * (2.0 * q + 1.0) * s.inv_tau; },
        [&](int q) { return u_of(i + q + 1); }, sum, sum_u);
    add_outward<T>(
        b, i, s.floor,
        [&](int q) { return (s.t(i - q - 1) - s.t(i - q)) * (2.0 * q + 1.0) * s.inv_tau; },
        [&](int q) { return u_of(i - q - 1); }, sum, sum_u);
    for (int step = kWarpSize / 2; step > 0; step /= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, step);
      sum_u += __shfl_xor_sync(kAllLanes, sum_u, step);
    }
    if (b.lane == 0) {
      w.scale[i] = 1.0 / sum;
      w.mean[i] = sum_u / sum;
    }
  }
  __syncthreads();
}

// Calls visit(i, e) with e = e^{z_i(r)} for the rows i that give gene r weight; `z_last` is
// z_{k'−1}(r) when r >= k'.
template <typename T, typename Visit>
__device__ void neural_column(const NeuralRow<T>& s, int r, double z_last, Visit visit) {
  const double tr = s.t(r);
  const int peak = r < s.k ? r : s.k - 1;
  double z = r < s.k ? 0.0 : z_last;
  double ti = s.t(peak);
  for (int i = peak; z >= s.floor;) {
    visit(i, static_cast<double>(exp_nonpositive(static_cast<T>(z))));
    if (--i < 0) break;
    const double up = s.t(i);
    z -= ((up - tr) + (ti - tr)) * s.inv_tau;
    ti = up;
  }
  z = 0.0;
  ti = tr;
  for (int i = peak + 1; i < s.k; ++i) {
    const double down = s.t(i);
    z -= ((tr - ti) + (tr - down)) * s.inv_tau;
    ti = down;
    if (z < s.floor) break;
    visit(i, static_cast<double>(exp_nonpositive(static_cast<T>(z))));
  }
}

// Grid: any number of blocks; each takes every gridDim.x-th row and has its own part of a.scans.
template <typename T>
__global__ void __launch_bounds__(kNeuralThreads)
    neuralsort_rows(RelaxedArgs<T> a, int window, int survivor_count) {
  using Key = typename KeyOf<T>::Key;
  __shared__ BlockSlots slots;
  Block b(slots);
  const Survivors<Key> survivors{
      reinterpret_cast<Key*>(dynamic_shared()),
      reinterpret_cast<int*>(reinterpret_cast<Key*>(dynamic_shared()) + survivor_count),
      survivor_count};
  unsigned char* shared = dynamic_shared() + survivor_count * (sizeof(Key) + sizeof(int));
  unsigned char* scratch =
      a.scans == nullptr ? nullptr : a.scans + blockIdx.x * WindowArrays<T>::bytes(a.genes);

  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    __syncthreads();  // the row before has been read
    const T* y = a.y + row * a.genes;
    const T* u = a.u == nullptr ? nullptr : a.u + row * a.genes;
    T* out = a.out == nullptr ? nullptr : a.out + row * a.genes;
    int64_t* reached = a.reached == nullptr ? nullptr : a.reached + row * a.reach;
    const auto at = [y](int j) { return KeyOf<T>::key(y[j]); };

    const KeyRange<Key> range = sweep_range<Key>(b, at, a.genes);
    Census census{0, 0, 0, 0};
    if (range.high >= KeyOf<T>::kForced || range.low <= KeyOf<T>::kForbidden) {
      for (int j = b.thread; j < a.genes; j += b.threads) count_special<T>(at(j), census);
      census = sum_census(b, census);
    }
    const bool broken = judge_row(census, a.genes, a.k).x != kRowFine;
    if (out != nullptr) fill_row<T>(b, out, a.genes, broken ? not_a_number<T>() : T(0));
    if (broken) {
      for (int64_t p = b.thread; reached != nullptr && p < a.reach; p += b.threads) reached[p] = -1;
      continue;
    }

    const int forced = census.forced, k = a.k - forced;
    const int finite = a.genes - forced - census.forbidden;
    NeuralRow<T> s{nullptr, k, 0, 1.0 / a.tau, sizeof(T) == 8 ? -708.0 : -88.0};
    WindowArrays<T> w(shared, window);
    int64_t size = 2 * static_cast<int64_t>(k) + 64;
    size = size < finite ? size : finite;
    for (;;) {
      const int count = static_cast<int>(size) + forced;
      w = count <= window ? WindowArrays<T>(shared, window) : WindowArrays<T>(scratch, a.genes);
      Entry<T>* entries = w.entries;
      select_largest(b, at, a.genes, count, range, survivors,
                     [=](int j, int p) { entries[p] = {at(j), j}; });
      sort_entries(b, entries, count);
      s.entries = entries + forced;
      s.size = static_cast<int>(size);
      if (k == 0) break;
      // Row k'−1 at the genes below it: −z in w.z, of which `weighty` are within the floor.
      const int below = s.size - k;
      sum_before(
          b, below,
          [&](int q) { return (s.t(k - 1 + q) - s.t(k + q)) * (2.0 * q + 1.0) * s.inv_tau; }, w.z);
      int weighty = 0;
      for (int q = b.thread; q < below; q += b.threads) weighty += -w.z[q + 1] > s.floor ? 1 : 0;
      weighty = b.sum(weighty);
      if (weighty < below || size == finite) {
        s.size = k + weighty + (weighty < below ? 1 : 0);
        break;
      }
      size = 2 * size < finite ? 2 * size : finite;
      __syncthreads();
    }

    if (k > 0) neural_rows(b, s, u, w);
    for (int r = b.thread; r < s.size && k > 0; r += b.threads) {
      const double z_last = r < k ? 0.0 : -w.z[r - k + 1];
      double c = 0, slope = 0;
      if (u == nullptr) {
        neural_column(s, r, z_last, [&](int i, double e) { c += e * w.scale[i]; });
      } else {
        const double ur = static_cast<double>(u[s.entries[r].index]);
        const double ends = static_cast<double>(tie_first(s.entries, r)) +
                            static_cast<double>(tie_last(s.entries, s.size, r));
        neural_column(s, r, z_last, [&](int i, double e) {
          const double gamma = e * w.scale[i] * (ur - w.mean[i]);
          c += gamma;
          slope += (ends - 2.0 * i) * gamma;
        });
      }
      w.c[r] = c;
      w.slope[r] = slope;
    }
    __syncthreads();

    if (reached != nullptr) {
      int last = k;  // genes down to the last one with enough weight
      for (int r = k + b.thread; r < s.size && k > 0; r += b.threads)
        if (w.c[r] >= kReachFloor) last = r + 1;
      const int64_t wanted = static_cast<int64_t>(b.max(last)) + forced;
      const int count = static_cast<int>(wanted < a.reach ? wanted : a.reach);
      select_largest(b, at, a.genes, count, range, survivors,
                     [reached](int j, int p) { reached[p] = j; });
      for (int64_t p = count + b.thread; p < a.reach; p += b.threads) reached[p] = -1;
    }
    if (out == nullptr) continue;
    if (u == nullptr) {
      for (int r = b.thread; r < forced; r += b.threads) out[w.entries[r].index] = T(1);
      for (int r = b.thread; r < s.size && k > 0; r += b.threads)
        out[s.entries[r].index] = static_cast<T>(w.c[r]);
    } else if (k > 0) {
      const double* c = w.c;
      const double total = sum_before(b, s.size, [c](int r) { return c[r]; }, w.before);
      for (int r = b.thread; r < s.size; r += b.threads) {
        const double above = w.before[tie_first(s.entries, r)];
        const double after = total - w.before[tie_last(s.entries, s.size, r) + 1];
        out[s.entries[r].index] = static_cast<T>((w.slope[r] + above - after) * s.inv_tau);
      }
    }
  }
}

}  // namespace kernomics
