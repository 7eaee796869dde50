// Launches a kernel and raises what went wrong under the kernel's name.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace kernomics {

inline void check_cuda(cudaError_t error, const char* name) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("CUDA kernel ") + name + ": " + cudaGetErrorString(error));
}

// `shared` is the dynamic shared memory in bytes; above 48 KB it must be asked for.
template <typename... Params, typename... Args>
void launch(const char* name, void (*kernel)(Params...), int64_t blocks, int threads, size_t shared,
            CudaStream stream, const Args&... args) {
  if (blocks > std::numeric_limits<int32_t>::max())
    throw std::runtime_error(std::string("CUDA kernel ") + name + ": " + std::to_string(blocks) +
                             " blocks are more than a grid holds; split the rows into calls");
  if (shared > 48 * 1024)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared)),
               name);
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared, stream>>>(
      args...);
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
