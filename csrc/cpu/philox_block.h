// Philox words of one row: 256 consecutive columns at a time, or of a list of columns.
#pragma once

#include "../common/philox.h"
#include "isa.h"

namespace kernomics {

constexpr int64_t kNoiseColumns = 256;

// Writes the words of columns 4·first … 4·first + 255 of the row whose counter is given.
void philox_block(PhiloxKey key, PhiloxCounter row, uint32_t first, uint32_t* words);

// Writes the words of `count` columns, each at the cost of four consecutive ones.
void philox_columns(PhiloxKey key, PhiloxCounter row, const int32_t* columns, int64_t count,
                    uint32_t* words);

}  // namespace kernomics
