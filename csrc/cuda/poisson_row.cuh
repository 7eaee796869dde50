// What a block of the Poisson sweep does with its row: 16-byte accesses wherever the row begins,
// the walk along the row's non-zeros, and the loss of one point.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "../common/activation.h"
#include "block.cuh"
#include "csr.cuh"
#include "kernels.h"
#include "scalar.cuh"

namespace kernomics::poisson {

constexpr int kThreads = 128;

template <typename A>
constexpr int kItems = 32 / sizeof(A);  // genes of a tile for each thread
template <typename A>
constexpr int kTile = kThreads * kItems<A>;

// Writes 16 bytes of numbers, in the one instruction that nvcc does not find by itself; two
// bfloat16 are rounded at a time.
__device__ __forceinline__ void store_word(const float* x, float* to) {
  __stwb(reinterpret_cast<float4*>(to), make_float4(x[0], x[1], x[2], x[3]));
}
__device__ __forceinline__ void store_word(const double* x, double* to) {
  __stwb(reinterpret_cast<double2*>(to), make_double2(x[0], x[1]));
}
__device__ __forceinline__ void store_word(const float* x, __nv_bfloat16* to) {
  __nv_bfloat162 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
  uint4 word;
  memcpy(&word, pairs, sizeof word);
  __stwb(reinterpret_cast<uint4*>(to), word);
}

// A row of numbers, V of them at a time. Places count from the row's beginning and lie at `shift`
// below a multiple of V; the row is `wide` if whole words begin there.
template <typename S, int V>
class Stream {
  static constexpr int kBytes = V * sizeof(S), kWord = kBytes < 16 ? kBytes : 16;
  static constexpr int kPerWord = kWord / sizeof(S), kWords = kBytes / kWord;
  struct alignas(kWord) Word {
    std::remove_const_t<S> at[kPerWord];
  };

 public:
  __device__ Stream(S* row, int64_t shift)
      : row_(row), wide_((reinterpret_cast<uintptr_t>(row) - shift * sizeof(S)) % kWord == 0) {}

  __device__ explicit operator bool() const { return row_ != nullptr; }

  // out = row[place, place + V), 0 outside of [0, count).
  template <typename A>
  __device__ void load(int64_t place, int64_t count, A* out) const {
    if (wide_ && place >= 0 && place + V <= count) {
      const Word* words = reinterpret_cast<const Word*>(row_ + place);
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        const Word word = words[w];
#pragma unroll
        for (int i = 0; i < kPerWord; ++i) out[w * kPerWord + i] = widen(word.at[i]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i)
        out[i] = place + i >= 0 && place + i < count ? A(widen(row_[place + i])) : A(0);
    }
  }

  template <typename A>
  __device__ void store(int64_t place, int64_t count, const A* values) const {
    if (wide_ && place >= 0 && place + V <= count) {
#pragma unroll
      for (int w = 0; w < V; w += kPerWord) store_word(values + w, row_ + place + w);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i)
        if (place + i >= 0 && place + i < count) narrow(values[i], row_ + place + i);
    }
  }

 private:
  S* row_;
  bool wide_;
};

// ---- one point ------------------------------------------------------------------------------

template <typename A>
struct Law {
  PoissonLaw<A> law;
  A minus_2_over_beta_log2, alpha_log2;  // −2/β and α, times log₂ e
};

template <typename A>
inline Law<A> make_law(double target_sum, double eps) {
  const double log2_e = 1.4426950408889634, beta = 4 * 2.718281828459045235;
  return {poisson_law<A>(target_sum, eps), static_cast<A>(-2 / beta * log2_e),
          static_cast<A>(std::log1p(target_sum) * log2_e)};
}

// 2^x within 2^−22 and 1/x within 2^−23, relative, by the special-function unit; 0 where the result
// would be subnormal.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

__device__ __forceinline__ float inverse_fast(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

// TxFM's activation in float32 by three special functions. With e = 2^{−2z/β·log₂e}, tanh is
// 2/(1 + e) − 1 and sech² 4e/(1 + e)². Its absolute error is 9·2⁻²⁴: near 0 tanh keeps fewer digits
// than on the CPU, where the loss, near 1, has no room for more.
template <int Act, typename A>
__device__ __forceinline__ void point(A z, A y, const Law<A>& c, A* loss, A* derivative) {
  if constexpr (Act == kRectifiedTanh && std::is_same_v<A, float>) {
    const float e = exp2_fast(z * c.minus_2_over_beta_log2), inverse = inverse_fast(1.0f + e);
    const bool zero = z <= 0.0f;
    const float tanh = zero ? 0.0f : 2.0f * inverse - 1.0f;
    const float slope = zero ? 0.0f : c.law.four_alpha_over_beta * e * inverse * inverse;
    const float rate = exp2_fast(c.alpha_log2 * tanh);
    *loss = rate - c.law.alpha * tanh * y;
    *derivative = slope * (rate - y);
  } else {
    poisson_point<Act>(z, y, c.law, loss, derivative);
  }
}

// y of n stored targets, where they stand.
template <int N, typename A>
__device__ __forceinline__ void to_rates(int kind, A unit, A* x) {
  if (kind == kTargetLog1p) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (std::is_same_v<A, float>)
        x[i] = exp2_fast(x[i] * 1.44269504f);
      else
        x[i] = exp_any(x[i]);
    }
  } else if (kind == kTargetCounts) {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = A(1) + x[i] * unit;
  }
}

// ---- the non-zeros of a row -----------------------------------------------------------------

// Where y of a tile's gene stands in shared memory. What a thread reads, V at a time, it reads in
// 16-byte words next to those of its neighbours.
template <typename A, int V>
__device__ __forceinline__ unsigned slot(unsigned gene) {
  constexpr unsigned kPerWord = 16 / sizeof(A);
  const unsigned within = gene % V;
  return within / kPerWord * (kTile<A> / V * kPerWord) + gene / V * kPerWord + within % kPerWord;
}

// Takes the y of genes [gene, gene + V), a multiple of V, and leaves zeros' rates in their place.
template <int V, typename A>
__device__ __forceinline__ void take_rates(A* rates, unsigned gene, A of_zero, A* y) {
  constexpr int kPerWord = 16 / sizeof(A);
  struct alignas(16) Word {
    A at[kPerWord];
  };
  Word zeros;
#pragma unroll
  for (int i = 0; i < kPerWord; ++i) zeros.at[i] = of_zero;
#pragma unroll
  for (int w = 0; w < V; w += kPerWord) {
    Word* place = reinterpret_cast<Word*>(rates + slot<A, V>(gene + w));
    const Word word = *place;
    *place = zeros;
#pragma unroll
    for (int i = 0; i < kPerWord; ++i) y[w + i] = word.at[i];
  }
}

// Walks along a row's entries, tile by tile. All threads of the block call together. An entry out
// of order, or left over at the end, is a fault; none leads outside the arrays.
template <typename A>
class Entries {
 public:
  __device__ Entries(const PoissonProblem<void>& a, Range entries)
      : a_(a), begin_(entries.begin), end_(entries.end), cursor_(entries.begin) {}

  // To the first entry at or after a gene: in every round each thread looks at one of 128 places.
  __device__ void seek(int64_t gene) {
    int64_t low = begin_, high = end_;
    while (low < high) {
      const int64_t step = (high - low + kThreads - 1) / kThreads;
      const int64_t place = low + threadIdx.x * step;
      const int before = __syncthreads_count(place < high && column(place) < gene);
      if (before == 0) break;
      high = min(high, low + before * step);
      low += (before - 1) * step + 1;
    }
    cursor_ = low;
  }

  // Writes y of the entries in genes [first, stop) over `rates`, whose slot 0 is gene `origin`, and
  // waits until all are written.
  template <int V>
  __device__ void scatter(int64_t origin, int64_t first, int64_t stop, A unit, A* rates) {
    int found;
    do {
      const int64_t place = cursor_ + threadIdx.x;
      bool mine = place < end_;
      const int64_t gene = mine ? column(place) : 0;
      mine = mine && gene < stop;
      if (mine) {
        if (gene >= first && (place == begin_ || column(place - 1) < gene)) {
          A y = static_cast<const A*>(a_.values)[place];
          to_rates<1>(a_.target_kind, unit, &y);
          rates[slot<A, V>(static_cast<unsigned>(gene - origin))] = y;
        } else {
          fault_ = true;
        }
      }
      found = __syncthreads_count(mine);
      cursor_ += found;
    } while (found == kThreads);
  }

  __device__ bool fault() const { return fault_; }
  __device__ bool left_over() const { return cursor_ < end_; }

 private:
  __device__ int64_t column(int64_t place) const {
    return a_.wide_columns ? static_cast<const int64_t*>(a_.columns)[place]
                           : static_cast<const int32_t*>(a_.columns)[place];
  }

  const PoissonProblem<void>& a_;
  int64_t begin_, end_, cursor_;
  bool fault_ = false;
};

}  // namespace kernomics::poisson
