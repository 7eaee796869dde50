// Launches a kernel and raises what went wrong under the kernel's name.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace kernomics {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline void check_cuda(cudaError_t error, const char* name) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("CUDA kernel ") + name + ": " + cudaGetErrorString(error));
}

// More than 48 KB of shared memory, a kernel's own and dynamic, must be asked for. All that the
// device has is, so that a thread that launches with less takes nothing away from another.
inline void allow_shared(const char* name, const void* kernel, size_t dynamic) {
  cudaFuncAttributes attributes;
  check_cuda(cudaFuncGetAttributes(&attributes, kernel), name);
  if (attributes.sharedSizeBytes + dynamic <= 48 * 1024) return;
  int device, most;
  check_cuda(cudaGetDevice(&device), name);
  check_cuda(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), name);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  most - static_cast<int>(attributes.sharedSizeBytes)),
             name);
}

// `shared` is the dynamic shared memory in bytes.
template <typename... Params, typename... Args>
void launch(const char* name, void (*kernel)(Params...), int64_t blocks, int threads, size_t shared,
            CudaStream stream, const Args&... args) {
  if (blocks > std::numeric_limits<int32_t>::max())
    throw std::runtime_error(std::string("CUDA kernel ") + name + ": " + std::to_string(blocks) +
                             " blocks are more than a grid holds; split the rows into calls");
  if (shared > 0) allow_shared(name, reinterpret_cast<const void*>(kernel), shared);
#ifdef __CUDACC__
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared, stream>>>(
      args...);
#else  // tests/emulated
  emulated::launch(kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared,
                   stream, args...);
#endif
  check_cuda(cudaGetLastError(), name);
}

// Hands out parts of a scratch buffer; with a null base it only counts bytes.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<unsigned char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    T* part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 15) / 16 * 16;
    return part;
  }

  size_t used() const { return used_; }

 private:
  unsigned char* base_;
  size_t used_ = 0;
};

}  // namespace kernomics
