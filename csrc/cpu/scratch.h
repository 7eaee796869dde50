// Working memory of the CPU kernels, and what becomes of an operation that gets none.
//
// An exception that leaves an OpenMP region ends the process. So whatever may allocate within one
// goes through Rescue, which keeps the first exception and throws it behind the region.
#pragma once

#include <atomic>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <vector>

namespace kernomics {

// Says how many bytes were wanted; `in_operation` adds by what. Holds its text, since there may be
// no memory for one.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(uint64_t bytes, const char* operation = "a kernel") : bytes_(bytes) {
    std::snprintf(text_, sizeof text_,
                  "%s got no memory for %" PRIu64
                  " bytes of scratch; give it fewer rows or genes, or fewer threads "
                  "(torch.set_num_threads), as each has its own",
                  operation, bytes);
  }
  const char* what() const noexcept override { return text_; }
  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_;
  char text_[192];
};

template <typename Body>
auto in_operation(const char* operation, Body body) {
  try {
    return body();
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(error.bytes(), operation);
  }
}

template <typename T>
struct ScratchAllocator {
  using value_type = T;
  ScratchAllocator() = default;
  template <typename U>
  ScratchAllocator(const ScratchAllocator<U>&) {}

  T* allocate(size_t count) {
    void* memory = ::operator new(count * sizeof(T), std::nothrow);
    if (memory == nullptr) throw OutOfMemory(count * sizeof(T));
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t) { ::operator delete(memory); }

  template <typename U>
  bool operator==(const ScratchAllocator<U>&) const {
    return true;
  }
  template <typename U>
  bool operator!=(const ScratchAllocator<U>&) const {
    return false;
  }
};

template <typename T>
using Scratch = std::vector<T, ScratchAllocator<T>>;

// Keeps the first exception of a region's threads, behind which `rethrow` throws it. Work that is
// left when there is one is not begun.
class Rescue {
 public:
  template <typename Body>
  void run(Body body) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      body();
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

// Scratch that a thread keeps from call to call: fresh memory each time would cost more than a
// short call's arithmetic.
template <typename S>
S& scratch_of_thread() {
  static thread_local S scratch;
  return scratch;
}

constexpr int64_t kKeptGenes = int64_t(1) << 20;  // scratch for longer rows is given back

}  // namespace kernomics
