// What compilers do not find is written with AVX-512 intrinsics, in functions marked KN_V4, which
// are called where `has_avx512`.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define KN_AVX512 1
#include <immintrin.h>
#define KN_V4 __attribute__((target("arch=x86-64-v4")))

namespace kernomics {

inline bool has_avx512() {
  static const bool found = __builtin_cpu_supports("x86-64-v4");
  return found;
}

}  // namespace kernomics
#endif
