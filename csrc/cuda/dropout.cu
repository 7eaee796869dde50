// Dropout: a thread draws four words and takes the four numbers that they are of. Backward draws
// them again, or reads from a rectified y what stayed.
//
// Bytes: 8 a number in float32, 12 backward of a rectified y, 16 of each array by a thread in a
// row; some 80 integer operations for four words leave it bound by memory.
#include "../common/dropout.h"
#include "launch.h"

namespace kernomics {
namespace {

constexpr int kThreads = 256;

// The number of the draw that the thread's first word is of; a multiple of 4.
__device__ __forceinline__ int64_t first_element(const DropoutDraw& draw) {
  return ((draw.first >> 2) + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
}

// What the four numbers from `element` on are multiplied by.
template <typename T>
__device__ __forceinline__ void factors(const DropoutDraw& draw, int64_t element, T (&out)[4]) {
  const Seed seed = read_seed(draw.seed);
  PhiloxCounter counter = dropout_counter(element, draw.stream, seed.step);
  counter.c0 = static_cast<uint32_t>(element >> 2);
  counter = philox4x32_10(counter, philox_key(seed.key));
  const uint32_t words[4] = {counter.c0, counter.c1, counter.c2, counter.c3};
  for (int j = 0; j < 4; ++j)
    out[j] = (words[j] >> 8) >= static_cast<uint32_t>(draw.threshold) ? static_cast<T>(draw.scale)
                                                                      : T(0);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) dropout_kernel(Dropout<T> p) {
  const int64_t element = first_element(p.draw);
  if (element >= p.draw.first + p.draw.count) return;
  T factor[4];
  factors(p.draw, element, factor);
  for (int j = 0; j < 4; ++j) {
    const int64_t i = element + j - p.draw.first;
    if (i < 0 || i >= p.draw.count) continue;
    const T x = p.x[i];
    p.y[i] = (p.rectified && x <= T(0) ? T(0) : x) * factor[j];
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) backward_kernel(DropoutBackward<T> p) {
  const int64_t element = first_element(p.draw);
  if (element >= p.draw.first + p.draw.count) return;
  const T scale = static_cast<T>(p.draw.scale);
  T factor[4];
  if (p.y == nullptr) factors(p.draw, element, factor);
  for (int j = 0; j < 4; ++j) {
    const int64_t i = element + j - p.draw.first;
    if (i < 0 || i >= p.draw.count) continue;
    p.grad[i] =
        p.y == nullptr ? p.delta[i] * factor[j] : (p.y[i] <= T(0) ? T(0) : p.delta[i]) * scale;
  }
}

template <typename Params>
void run(const char* name, void (*kernel)(Params), const Params& params, CudaStream stream) {
  const DropoutDraw& draw = params.draw;
  if (draw.count == 0) return;
  const int64_t groups = ((draw.first + draw.count + 3) >> 2) - (draw.first >> 2);
  launch(name, kernel, divide_up(groups, kThreads), kThreads, 0, stream, params);
}

}  // namespace

template <typename T>
void dropout(const Dropout<T>& params, CudaStream stream) {
  run("dropout", dropout_kernel<T>, params, stream);
}

template <typename T>
void dropout_backward(const DropoutBackward<T>& params, CudaStream stream) {
  run("dropout_backward", backward_kernel<T>, params, stream);
}

template void dropout(const Dropout<float>&, CudaStream);
template void dropout(const Dropout<double>&, CudaStream);
template void dropout_backward(const DropoutBackward<float>&, CudaStream);
template void dropout_backward(const DropoutBackward<double>&, CudaStream);

}  // namespace kernomics
