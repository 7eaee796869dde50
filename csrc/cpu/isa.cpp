#include "isa.h"

namespace kernomics {

Isa best_isa() {
#ifdef KN_X86
  if (__builtin_cpu_supports("x86-64-v4")) return Isa::kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

std::atomic<Isa> isa_in_use{best_isa()};

}  // namespace kernomics
