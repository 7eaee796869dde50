// The constants of gumbel_topk that Python, the CPU kernels and the CUDA kernels agree on.
#pragma once

namespace kernomics {

enum Relaxation : int { kSoftSort = 0, kNeuralSort = 1, kSoftmax = 2 };

// What is wrong with the data of a row.
enum RowFault : int { kRowFine = 0, kRowNaN = 1, kRowForced = 2, kRowUsable = 3, kRowId = 4 };

// Genes whose Γ lies below this are left out of a limited reach.
constexpr double kReachFloor = 0x1p-24;

}  // namespace kernomics
