// Dropout: a thread draws four words and takes the four numbers that they are of.
//
// Bytes: 8 a number in float32, 16 of them by a thread in a row; some 80 integer operations for
// four words leave it bound by memory.
#include "../common/dropout.h"
#include "launch.h"

namespace kernomics {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) dropout_kernel(Dropout<T> p) {
  const int64_t group = (p.first >> 2) + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t element = group * 4;
  if (element >= p.first + p.count) return;
  PhiloxCounter counter = dropout_counter(element, p.draw);
  counter.c0 = static_cast<uint32_t>(group);
  counter = philox4x32_10(counter, philox_key(p.key));
  const uint32_t words[4] = {counter.c0, counter.c1, counter.c2, counter.c3};
  const T scale = static_cast<T>(p.scale);
  for (int j = 0; j < 4; ++j) {
    const int64_t i = element + j - p.first;
    if (i < 0 || i >= p.count) continue;
    const T x = p.x[i];
    const T value = p.rectified && x <= T(0) ? T(0) : x;
    p.y[i] = value * ((words[j] >> 8) >= static_cast<uint32_t>(p.threshold) ? scale : T(0));
  }
}

}  // namespace

template <typename T>
void dropout(const Dropout<T>& params, CudaStream stream) {
  if (params.count == 0) return;
  const int64_t groups = ((params.first + params.count + 3) >> 2) - (params.first >> 2);
  launch("dropout", dropout_kernel<T>, divide_up(groups, kThreads), kThreads, 0, stream, params);
}

template void dropout(const Dropout<float>&, CudaStream);
template void dropout(const Dropout<double>&, CudaStream);

}  // namespace kernomics
