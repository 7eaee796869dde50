// The K smallest of a row's keys, ties to the smaller gene.
//
// One sweep keeps the keys up to a bound that is expected to lie just above the K-th smallest; the
// few between the bracket's ends decide exactly. A key that a bracket missed is looked for again
// among all: the bracket decides about time, never about the result.
#pragma once

#include <cstdint>

#include "scratch.h"

namespace kernomics {

constexpr int64_t kKeyRoom = 16;  // what vector stores may write beyond the end of a list

// Keys and their genes, ascending by gene.
struct KeyList {
  Scratch<uint32_t> keys;
  Scratch<int32_t> genes;
  int64_t count = 0;

  // Empties the list and makes room for so many.
  void start(int64_t room) {
    count = 0;
    grow(room);
  }

  // Makes room for so many more.
  void grow(int64_t more) {
    const int64_t needed = count + more + kKeyRoom;
    if (static_cast<int64_t>(genes.size()) >= needed) return;
    const int64_t size = needed + needed / 2;
    keys.resize(size);
    genes.resize(size);
  }
};

// Where the K-th smallest key is expected, ends included.
struct Bracket {
  uint32_t low, high;
};

// The bracket of the k-th smallest of n uniform words: three standard deviations to both sides.
Bracket uniform_bracket(int64_t k, int64_t n);

// The same for keys of any distribution, from every sixteenth of them; `scratch` as below.
Bracket sampled_bracket(const KeyList& list, int64_t k, Scratch<uint32_t>& scratch);

// Appends the genes first … first + count − 1 whose key is at most `bound` and, where flags are
// given, whose flag is not 0.
void append_at_most(const uint32_t* keys, const uint8_t* flags, int64_t count, int32_t first,
                    uint32_t bound, KeyList& list);

// Writes the genes of the k smallest keys of the list, which holds at least k, ascending by gene.
// Returns false, writing nothing, if the bracket misses the k-th smallest. With `next`, also says
// where the k-th smallest of another list of n keys, drawn as this one was, is to be expected.
bool take_smallest(const KeyList& list, int64_t k, Bracket bracket, Scratch<uint32_t>& scratch,
                   int32_t* genes, int64_t n = 0, Bracket* next = nullptr);

}  // namespace kernomics
