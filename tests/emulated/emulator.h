// Runs kernels written for CUDA on the host: one block at a time, a fiber for each thread.
//
// A thread runs until it has to wait for others: at a barrier, for all threads of the block; at a
// collective operation of a warp, for the lanes of its mask. What waits there in vain, because
// another thread has returned or waits elsewhere, is an error of the launch, not a hang. Between
// two such points a thread is not interrupted, so races show only by the order in which threads
// are resumed: in turn, or at random from a seed.
//
// __shared__ is thread_local: one copy for each variable, which is the block's, as one block runs
// at a time on one host thread. All of it is filled with garbage before each block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern uint3 threadIdx, blockIdx;  // of the thread that runs
extern dim3 blockDim, gridDim;

namespace emulated {

// Where in the source a thread waits.
struct Site {
  const char* file;
  int line;
};

// What a lane brings to a collective: a value, and the lane whose value it wants; kNoLane where all
// get the same.
constexpr int kNoLane = -1;
struct Offer {
  uint64_t word;
  int from;
};

using Answer = uint64_t (*)(const Offer* offers, unsigned mask, int lane);

// Waits for all threads of the block; returns in how many the predicate holds.
int wait_for_block(bool predicate, Site site);

// Waits for the lanes of the mask; all must come with the same mask and answer to the same site.
uint64_t wait_for_lanes(unsigned mask, Offer offer, Answer answer, Site site);

// The lane that this thread is.
int lane();

// Notes what is wrong with the launch and ends the block. Does not return.
[[noreturn]] void fail(const char* what, Site site);

// Runs body(arguments) for every thread of every block.
void run(const void* kernel, unsigned blocks, unsigned threads, size_t shared,
         void (*body)(void* arguments), void* arguments);

template <typename T>
uint64_t to_word(T value) {
  static_assert(sizeof(T) <= 8, "no lane can hand over more");
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  return word;
}

template <typename T>
T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

inline uint64_t word_of_source(const Offer* offers, unsigned, int lane) {
  return offers[offers[lane].from].word;
}

template <typename T>
T shuffle(unsigned mask, T value, int from, Site site) {
  if ((mask >> from & 1u) == 0) fail("a lane outside of the mask is read", site);
  return from_word<T>(wait_for_lanes(mask, {to_word(value), from}, word_of_source, site));
}

// Combines the values of the mask's lanes.
template <typename T, T (*kCombine)(T, T)>
T reduce(unsigned mask, T value, Site site) {
  const Answer answer = [](const Offer* offers, unsigned mask, int) {
    T result = from_word<T>(offers[__builtin_ctz(mask)].word);
    for (unsigned rest = mask & (mask - 1); rest != 0; rest &= rest - 1)
      result = kCombine(result, from_word<T>(offers[__builtin_ctz(rest)].word));
    return to_word(result);
  };
  return from_word<T>(wait_for_lanes(mask, {to_word(value), kNoLane}, answer, site));
}

}  // namespace emulated
