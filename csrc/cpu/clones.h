// KN_CLONES compiles a hot loop once per x86-64 level and picks the best at run time, so that the
// package needs no -march flag. Contraction to fma is off for the whole extension: every clone
// gives the same bits.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define KN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define KN_CLONES
#endif

#define KN_INLINE inline __attribute__((always_inline))
