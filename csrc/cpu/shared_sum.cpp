#include "shared_sum.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

namespace kernomics {
namespace {

constexpr int kSpins = 500;       // looks without a pause: some 20 µs
constexpr int kYields = 2000;     // then others may run in between: 1 ms where nobody wants to
constexpr int64_t kBlock = 1024;  // numbers that stay in the first cache while ranks are added

using Clock = std::chrono::steady_clock;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int64_t size_of(int kind) { return kind == kSumFloat32 ? 4 : 8; }

int64_t what(const SharedSum& s) { return 4 * s.count + s.kind; }

Arrival& arrival_of(const SharedSum& s, int64_t rank) {
  return static_cast<Arrival*>(s.room)[rank];
}

char* slot_of(const SharedSum& s, int64_t rank) {
  const int64_t place = static_cast<int64_t>(s.turn & 1) * s.world + rank;
  return static_cast<char*>(s.room) + s.world * sizeof(Arrival) + place * s.slot;
}

// Whether a rank comes before the deadline.
bool comes(const std::atomic<uint64_t>& last, uint64_t turn, Clock::time_point deadline) {
  for (int look = 0; last.load(std::memory_order_acquire) < turn; ++look) {
    if (look < kSpins) {
      pause();
    } else if (look < kYields) {
      sched_yield();
    } else {
      if (Clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }
  return true;
}

template <typename T>
void add_up(const SharedSum& s) {
  T* out = static_cast<T*>(s.values);
  for (int64_t base = 0; base < s.count; base += kBlock) {
    const int64_t n = std::min(kBlock, s.count - base);
    T* __restrict__ sums = out + base;
    for (int64_t rank = 0; rank < s.world; ++rank) {
      const T* given = reinterpret_cast<const T*>(slot_of(s, rank)) + base;
      if (rank == 0)
        std::memcpy(sums, given, n * sizeof(T));
      else
        for (int64_t i = 0; i < n; ++i) sums[i] += given[i];
    }
  }
}

}  // namespace

void shared_put(const SharedSum& s) {
  std::memcpy(slot_of(s, s.rank), s.values, s.count * size_of(s.kind));
  Arrival& own = arrival_of(s, s.rank);
  own.what[s.turn & 1] = what(s);
  own.turn.store(s.turn, std::memory_order_release);
}

SumReport shared_add(const SharedSum& s, double seconds) {
  const auto span =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  const Clock::time_point deadline = Clock::now() + span;
  for (int64_t rank = 0; rank < s.world; ++rank) {
    const Arrival& one = arrival_of(s, rank);
    if (!comes(one.turn, s.turn, deadline)) return {kSumWaiting, rank};
    if (one.what[s.turn & 1] != what(s)) return {kSumDiffers, rank};
  }
  if (s.kind == kSumFloat32)
    add_up<float>(s);
  else if (s.kind == kSumFloat64)
    add_up<double>(s);
  else
    add_up<int64_t>(s);
  return {kSumDone, 0};
}

}  // namespace kernomics
