// 256 consecutive columns of Philox words for one row: 64 counters at once.
#pragma once

#include "../common/philox.h"
#include "clones.h"

namespace kernomics {

constexpr int64_t kNoiseColumns = 256;

// Writes the words of columns 4·first … 4·first + 255 of the row whose counter is given.
void philox_block(PhiloxKey key, PhiloxCounter row, uint32_t first, uint32_t* words);

}  // namespace kernomics
