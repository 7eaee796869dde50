// Dropout: y = x/(1 − p) where a number stays, 0 elsewhere, in one sweep with the words it hangs
// on. Backward draws the words again, or reads from a rectified y what stayed.
//
// Bytes: 8 a number in float32 either way, 12 backward of a rectified y. Words: one a number, which
// is most of the work, 0.4 ns with AVX-512; none backward of a rectified y.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "isa.h"
#include "kernels.h"
#include "philox_block.h"

namespace kernomics {
namespace {

constexpr int64_t kPiece = int64_t(1) << 14;       // numbers
constexpr int64_t kSerialWork = int64_t(1) << 16;  // fewer are not worth other threads

// The bits of a number without its sign, of which an infinite or NaN one has the most; with it for
// numbers that are not negative, which is an operation less.
template <typename T, bool kRectified>
KN_INLINE auto magnitude(T x) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr Bits kMost = std::numeric_limits<Bits>::max();
  Bits bits;
  std::memcpy(&bits, &x, sizeof bits);
  return kRectified ? bits : Bits(bits & kMost);
}

// Returns, if it looks, whether a y may be infinite.
template <typename T, bool kRectified, bool kLooks>
KN_INLINE bool keep(const uint32_t* __restrict__ words, uint32_t threshold, T scale,
                    const T* __restrict__ x, int64_t n, T* __restrict__ y) {
  auto most = magnitude<T, kRectified>(T(0));
  for (int64_t i = 0; i < n; ++i) {
    const T factor = (words[i] >> 8) >= threshold ? scale : T(0);
    const T value = kRectified && x[i] <= T(0) ? T(0) : x[i];  // NaN stays NaN
    const T result = value * factor;
    y[i] = result;
    if constexpr (kLooks) most = std::max(most, magnitude<T, kRectified>(result));
  }
  return most >= magnitude<T, kRectified>(std::numeric_limits<T>::infinity());
}

template <typename T>
KN_INLINE void pass_on(const T* __restrict__ y, T scale, const T* __restrict__ delta, int64_t n,
                       T* __restrict__ grad) {
  for (int64_t i = 0; i < n; ++i) grad[i] = (y[i] <= T(0) ? T(0) : delta[i]) * scale;
}

// Calls body(words, i, n) with the words of numbers i … i + n − 1, for all from begin to end.
template <typename Body>
void for_words(const DropoutDraw& draw, Seed seed, int64_t begin, int64_t end, Body body) {
  const PhiloxKey key = philox_key(seed.key);
  uint32_t words[kNoiseColumns];
  for (int64_t i = begin; i < end;) {
    const int64_t element = draw.first + i, within = element & 3;
    const int64_t row_end = ((element >> kRowBits) + 1) << kRowBits;
    const int64_t n = std::min({kNoiseColumns - within, end - i, row_end - element});
    philox_block(key, dropout_counter(element, draw.stream, seed.step),
                 static_cast<uint32_t>(element >> 2), words);
    body(words + within, i, n);
    i += n;
  }
}

// Calls body(begin, end) for pieces of `count` numbers, in several threads.
template <typename Body>
void in_pieces(int64_t count, int threads, Body body) {
  const int64_t pieces = (count + kPiece - 1) / kPiece;
#pragma omp parallel for num_threads(threads) schedule(static) if (count >= kSerialWork)
  for (int64_t i = 0; i < pieces; ++i) body(i * kPiece, std::min((i + 1) * kPiece, count));
}

}  // namespace

template <typename T>
Report dropout(const Dropout<T>& p, int threads) {
  const auto threshold = static_cast<uint32_t>(p.draw.threshold);
  const auto scale = static_cast<T>(p.draw.scale);
  const Seed seed = read_seed(p.draw.seed);
  Report report;
  in_pieces(p.draw.count, threads, [&](int64_t begin, int64_t end) {
    for_words(p.draw, seed, begin, end, [&](const uint32_t* words, int64_t i, int64_t n) {
      const T* x = p.x + i;
      const bool beyond =
          p.rectified ? for_isa<&keep<T, true, true>>(words, threshold, scale, x, n, p.y + i)
                      : for_isa<&keep<T, false, true>>(words, threshold, scale, x, n, p.y + i);
      if (!beyond) return;
      for (int64_t j = i; j < i + n; ++j)
        if (std::isfinite(p.x[j]) && !std::isfinite(p.y[j]))
#pragma omp critical(dropout_report)
          keep_first(report, {kDropoutOverflow, j, 0, 0, static_cast<double>(p.x[j]), 1});
    });
  });
  return report;
}

template <typename T>
void dropout_backward(const DropoutBackward<T>& p, int threads) {
  const auto threshold = static_cast<uint32_t>(p.draw.threshold);
  const auto scale = static_cast<T>(p.draw.scale);
  const Seed seed = read_seed(p.draw.seed);
  in_pieces(p.draw.count, threads, [&](int64_t begin, int64_t end) {
    if (p.y != nullptr)
      return for_isa<&pass_on<T>>(p.y + begin, scale, p.delta + begin, end - begin, p.grad + begin);
    for_words(p.draw, seed, begin, end, [&](const uint32_t* words, int64_t i, int64_t n) {
      for_isa<&keep<T, false, false>>(words, threshold, scale, p.delta + i, n, p.grad + i);
    });
  });
}

template Report dropout(const Dropout<float>&, int);
template Report dropout(const Dropout<double>&, int);
template void dropout_backward(const DropoutBackward<float>&, int);
template void dropout_backward(const DropoutBackward<double>&, int);

}  // namespace kernomics
