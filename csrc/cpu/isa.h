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

// How many bytes a vector register holds.
template <Isa kIsa>
constexpr int kRegister = kIsa == Isa::kAvx512 ? 64
                          : kIsa == Isa::kAvx2 ? 32
                                               : 16;

// Calls a function, compiled for every level, at the one in use. Its body must be KN_INLINE. With
// `for_each_isa` the body is a template of the level: for_each_isa<body<Isa::kPortable>,
// body<Isa::kAvx2>, body<Isa::kAvx512>>.
template <auto kPortable, auto kAvx2, auto kAvx512>
struct ForIsa;
template <typename R, typename... Args, R (*kPortable)(Args...), R (*kAvx2)(Args...),
          R (*kAvx512)(Args...)>
struct ForIsa<kPortable, kAvx2, kAvx512> {
  R operator()(Args... args) const {
#ifdef KN_X86
    if (isa() == Isa::kAvx512) return avx512(args...);
    if (isa() == Isa::kAvx2) return avx2(args...);
#endif
    return portable(args...);
  }

 private:
#ifdef KN_X86
  KN_AVX512 static R avx512(Args... args) { return kAvx512(args...); }
  KN_AVX2 static R avx2(Args... args) { return kAvx2(args...); }
#endif
  static R portable(Args... args) { return kPortable(args...); }
};
template <auto kPortable, auto kAvx2, auto kAvx512>
inline constexpr ForIsa<kPortable, kAvx2, kAvx512> for_each_isa;
template <auto kBody>
inline constexpr ForIsa<kBody, kBody, kBody> for_isa;

}  // namespace kernomics
