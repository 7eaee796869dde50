// A sum over the processes of one machine, in memory that they share, called a room.
//
// The room begins with an Arrival for each rank, zeros at first; then come, for even turns and for
// odd ones, a slot for each rank. In a turn a rank writes its numbers to its slot and says that it
// has come; once all have, each adds up all slots, in the order of the ranks, so that all have the
// same bits. Whoever writes in turn t + 2 has seen all others come to turn t + 1, and these have
// read their slots of turn t by then: so two slots are enough, and nobody waits twice.
// Bytes: a rank writes its numbers once and reads those of all ranks, from the shared cache.
#pragma once

#include <atomic>
#include <cstdint>

namespace kernomics {

struct alignas(64) Arrival {
  std::atomic<uint64_t> turn;  // the last one that the rank has come to
  int64_t what[2];             // its numbers in the last even and odd turn: count and kind
};
static_assert(sizeof(Arrival) == 64 && std::atomic<uint64_t>::is_always_lock_free);

struct SharedSum {
  void* room;
  int64_t world, rank;
  int64_t slot;   // bytes, a multiple of 64
  uint64_t turn;  // from 1 on, one more each time, the same on all ranks
  int kind;       // kSumFloat32, kSumFloat64 or kSumInt64
  int64_t count;
  void* values;  // [count], the rank's own; afterwards the sums
};

enum SumKind : int { kSumFloat32 = 0, kSumFloat64 = 1, kSumInt64 = 2 };

enum SumState : int {
  kSumDone = 0,
  kSumWaiting = 1,  // a rank has not come yet
  kSumDiffers = 2,  // a rank has come with numbers of another count or kind
};

struct SumReport {
  SumState state;
  int64_t rank;  // the first that has not come, or differs
};

// Writes the rank's numbers and says that it has come; at most `slot` bytes.
void shared_put(const SharedSum& sum);

// Adds up once all have come, for whom it waits at most so many seconds; may be called again.
SumReport shared_add(const SharedSum& sum, double seconds);

}  // namespace kernomics
