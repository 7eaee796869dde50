// Which instruction set the kernels use.
//
// Every hot function is compiled for several x86-64 levels, so that the package needs no -march
// flag, and what compilers do not find is written with intrinsics. One level is in use for the
// whole extension: the best that the processor has, or the one that KERNOMICS_ISA names. All give
// the same bits: contraction to fma is off, and sums run in a fixed number of lanes.
#pragma once

#include <atomic>

#define KN_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define KN_X86 1
#include <immintrin.h>
#define KN_AVX2 __attribute__((target("arch=x86-64-v3")))
#define KN_AVX512 __attribute__((target("arch=x86-64-v4")))
#endif

namespace kernomics {

enum class Isa : int { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

Isa best_isa();  // that this processor has

extern std::atomic<Isa> isa_in_use;

inline Isa isa() { return isa_in_use.load(std::memory_order_relaxed); }

// A function compiled for every level, called at the one in use. Its body must be KN_INLINE.
template <auto kBody>
struct ForIsa;
template <typename R, typename... Args, R (*kBody)(Args...)>
struct ForIsa<kBody> {
  R operator()(Args... args) const {
#ifdef KN_X86
    if (isa() == Isa::kAvx512) return avx512(args...);
    if (isa() == Isa::kAvx2) return avx2(args...);
#endif
    return portable(args...);
  }

 private:
#ifdef KN_X86
  KN_AVX512 static R avx512(Args... args) { return kBody(args...); }
  KN_AVX2 static R avx2(Args... args) { return kBody(args...); }
#endif
  static R portable(Args... args) { return kBody(args...); }
};
template <auto kBody>
inline constexpr ForIsa<kBody> for_isa;

}  // namespace kernomics
