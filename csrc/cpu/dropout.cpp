// Dropout: y = x/(1 − p) where a number stays, 0 elsewhere, in one sweep with the words it hangs
// on.
//
// Bytes: 8 a number in float32. Words: one a number, which is most of the work, 0.4 ns with
// AVX-512.
#include <algorithm>

#include "isa.h"
#include "kernels.h"
#include "philox_block.h"

namespace kernomics {
namespace {

constexpr int64_t kPiece = int64_t(1) << 14;       // numbers
constexpr int64_t kSerialWork = int64_t(1) << 16;  // fewer are not worth other threads

template <typename T, bool kRectified>
KN_INLINE void keep(const uint32_t* __restrict__ words, uint32_t threshold, T scale,
                    const T* __restrict__ x, int64_t n, T* __restrict__ y) {
  for (int64_t i = 0; i < n; ++i) {
    const T factor = (words[i] >> 8) >= threshold ? scale : T(0);
    const T value = kRectified && x[i] <= T(0) ? T(0) : x[i];  // NaN stays NaN
    y[i] = value * factor;
  }
}

template <typename T>
void piece(const Dropout<T>& p, int64_t begin, int64_t end) {
  const PhiloxKey key = philox_key(p.key);
  const auto threshold = static_cast<uint32_t>(p.threshold);
  const auto scale = static_cast<T>(p.scale);
  uint32_t words[kNoiseColumns];
  for (int64_t i = begin; i < end;) {
    const int64_t element = p.first + i, within = element & 3;
    const int64_t row_end = ((element >> kRowBits) + 1) << kRowBits;
    const int64_t n = std::min({kNoiseColumns - within, end - i, row_end - element});
    philox_block(key, dropout_counter(element, p.draw), static_cast<uint32_t>(element >> 2), words);
    if (p.rectified)
      for_isa<&keep<T, true>>(words + within, threshold, scale, p.x + i, n, p.y + i);
    else
      for_isa<&keep<T, false>>(words + within, threshold, scale, p.x + i, n, p.y + i);
    i += n;
  }
}

}  // namespace

template <typename T>
void dropout(const Dropout<T>& params, int threads) {
  const int64_t pieces = (params.count + kPiece - 1) / kPiece;
#pragma omp parallel for num_threads(threads) schedule(static) if (params.count >= kSerialWork)
  for (int64_t i = 0; i < pieces; ++i)
    piece(params, i * kPiece, std::min((i + 1) * kPiece, params.count));
}

template void dropout(const Dropout<float>&, int);
template void dropout(const Dropout<double>&, int);

}  // namespace kernomics
