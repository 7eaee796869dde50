// A kernel's parameters are one struct, the same on the CPU, on CUDA and in its emulation, whose
// fields the bindings fill by their names (bindings.h).
#pragma once

namespace kernomics {

// Stands at the end of the struct and names its fields, all of them, or it does not compile; a
// field may be such a struct itself. The names are the fields' own, so no two can be swapped.
#define KN_FIELDS(...)                                \
  static constexpr const char* kNames = #__VA_ARGS__; \
  template <typename Visit>                           \
  void visit_fields(Visit visit) {                    \
    {                                                 \
      [[maybe_unused]] auto& [__VA_ARGS__] = *this;   \
    }                                                 \
    visit(__VA_ARGS__);                               \
  }

// How a call names the type of its numbers; SCALAR_KINDS in python/kernomics/ops/_common.py.
enum ScalarKind : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

template <typename T>
constexpr int kKindOf = -1;
template <>
inline constexpr int kKindOf<float> = kFloat32;
template <>
inline constexpr int kKindOf<double> = kFloat64;

}  // namespace kernomics
