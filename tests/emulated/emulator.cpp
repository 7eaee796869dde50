#include "emulator.h"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "include/cuda_runtime.h"
#include "switch.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace kernomics {
constexpr size_t kMostShared = 99 * 1024;  // of a block, on every GPU since compute capability 8.0
constexpr size_t kFence = 4096;            // behind what a kernel asked for
// The kernels' dynamic shared memory; block.cuh declares it.
thread_local unsigned char dynamic_shared_memory[kMostShared + kFence] __attribute__((aligned(16)));
}  // namespace kernomics

namespace emulated {
namespace {

using kernomics::dynamic_shared_memory;

constexpr int kMostThreads = 1024, kWarp = 32;
constexpr size_t kStack = 128 * 1024;
constexpr unsigned char kGarbage = 0xa7;  // large as an index, tiny or negative as a number
constexpr int64_t kMostResumptions = 200'000'000;  // of a block; more is an endless loop

enum class State { kReady, kAtBarrier, kInWarp, kReturned };

struct Thread {
  State state;
  Site site;
  Context context;
  // In a collective, and what comes of it or of a barrier.
  unsigned mask;
  Answer answer;
  Offer offer;
  uint64_t result;
};

struct Block {
  Thread threads[kMostThreads];
  int count, returned, at_barrier, agreeing;
  int running = -1;
  unsigned in_warp[kMostThreads / kWarp];  // lanes that wait in a collective
  unsigned gone[kMostThreads / kWarp];     // lanes that have returned, or never were
  int queue[kMostThreads], first, ready;   // a ring of those that may run
  int64_t resumptions;
  Context host;
  void (*body)(void*);
  void* arguments;
} block;

char* stacks = nullptr;
std::mt19937 order;
bool at_random = false;
std::string error;
std::map<const void*, size_t> allowed;  // dynamic shared memory that a kernel has asked for
std::mutex one_launch;
int launches = 0;

// ---- threads ------------------------------------------------------------------------------------

void make_ready(int thread) {
  block.threads[thread].state = State::kReady;
  block.queue[(block.first + block.ready++) % kMostThreads] = thread;
}

// Leaves the running context for the next thread, or for the host where there is none.
void resume_next(Context& from) {
  if (block.ready == 0 || ++block.resumptions > kMostResumptions) {
    switch_context(from, block.host);
    return;
  }
  int& head = block.queue[block.first];
  if (at_random) std::swap(head, block.queue[(block.first + order() % block.ready) % kMostThreads]);
  block.running = head;
  block.first = (block.first + 1) % kMostThreads;
  --block.ready;
  threadIdx = {static_cast<unsigned>(block.running), 0, 0};
  Context& to = block.threads[block.running].context;
  if (&to != &from) switch_context(from, to);
}

void run_thread() {
  block.body(block.arguments);
  Thread& self = block.threads[block.running];
  self.state = State::kReturned;
  ++block.returned;
  block.gone[block.running / kWarp] |= 1u << block.running % kWarp;
  resume_next(self.context);
  __builtin_unreachable();
}

std::string place(Site site) {
  const std::string file = site.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

// Which threads wait where, for the message of a block that cannot go on.
std::string describe_waiting() {
  std::map<std::string, std::vector<int>> groups;
  for (int t = 0; t < block.count; ++t) {
    const Thread& thread = block.threads[t];
    if (thread.state == State::kReturned)
      groups["have returned"].push_back(t);
    else
      groups[std::string(thread.state == State::kAtBarrier ? "wait for the block"
                                                           : "wait for lanes") +
             " at " + place(thread.site)]
          .push_back(t);
  }
  std::string text;
  for (const auto& [what, threads] : groups)
    text += (text.empty() ? "" : ", ") + std::to_string(threads.size()) + " threads from thread " +
            std::to_string(threads.front()) + " on " + what;
  return text;
}

// ---- shared memory ------------------------------------------------------------------------------

struct Span {
  unsigned char* begin = nullptr;
  size_t bytes = 0;
};

// This library's thread-local storage: the shared variables of all kernels.
Span shared_variables() {
  dynamic_shared_memory[0] = 0;  // the storage of a thread is made on its first use
  Span span;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        const auto here = reinterpret_cast<uintptr_t>(&shared_variables);
        bool ours = false;
        size_t bytes = 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& part = info->dlpi_phdr[i];
          const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
          ours |= part.p_type == PT_LOAD && here >= begin && here < begin + part.p_memsz;
          if (part.p_type == PT_TLS) bytes = part.p_memsz;
        }
        if (!ours) return 0;
        *static_cast<Span*>(data) = {static_cast<unsigned char*>(info->dlpi_tls_data), bytes};
        return 1;
      },
      &span);
  return span;
}

void check_fence(size_t shared) {
  const unsigned char *begin = dynamic_shared_memory + shared, *end = begin + kernomics::kFence;
  if (error.empty() && std::any_of(begin, end, [](unsigned char x) { return x != kGarbage; }))
    error = "writes beyond the " + std::to_string(shared) + " bytes of its shared memory";
}

// ---- blocks -------------------------------------------------------------------------------------

void run_block() {
  block.returned = block.at_barrier = block.agreeing = block.first = block.ready = 0;
  block.resumptions = 0;
  std::fill(std::begin(block.in_warp), std::end(block.in_warp), 0u);
  for (int w = 0; w < kMostThreads / kWarp; ++w) {
    const int lanes = std::clamp(block.count - w * kWarp, 0, kWarp);
    block.gone[w] = lanes == kWarp ? 0u : ~0u << lanes;
  }
  for (int t = 0; t < block.count; ++t) {
    make_context(block.threads[t].context, stacks + (t + 1) * kStack, kStack, run_thread);
    make_ready(t);
  }
  resume_next(block.host);
  block.running = -1;
  if (!error.empty() || block.returned == block.count) return;
  error = block.ready > 0 ? "an endless loop of waiting" : describe_waiting();
  error += " (block " + std::to_string(blockIdx.x) + ")";
}

void make_stacks() {
  const size_t bytes = kMostThreads * kStack;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  stacks = static_cast<char*>(memory);
  const long page = sysconf(_SC_PAGESIZE);
  for (int t = 0; t < kMostThreads; ++t) mprotect(stacks + t * kStack, page, PROT_NONE);
}

}  // namespace

bool in_kernel() { return block.running >= 0; }

int lane() { return block.running % kWarp; }

void fail(const char* what, Site site) {
  if (error.empty())
    error = std::string(what) + " at " + place(site) + " (thread " + std::to_string(block.running) +
            " of block " + std::to_string(blockIdx.x) + ")";
  switch_context(block.threads[block.running].context, block.host);
  __builtin_unreachable();
}

int wait_for_block(bool predicate, Site site) {
  Thread& self = block.threads[block.running];
  if (block.returned > 0) fail("a barrier before which other threads have returned", site);
  self.state = State::kAtBarrier;
  self.site = site;
  block.agreeing += predicate ? 1 : 0;
  if (++block.at_barrier == block.count) {
    for (int t = 0; t < block.count; ++t) {
      const Site other = block.threads[t].site;
      if (other.line != site.line || std::strcmp(other.file, site.file) != 0)
        fail(("another barrier than " + place(other)).c_str(), site);
      block.threads[t].result = static_cast<uint64_t>(block.agreeing);
      make_ready(t);
    }
    block.at_barrier = block.agreeing = 0;
  }
  resume_next(self.context);
  return static_cast<int>(self.result);
}

// The collective of one of its lanes, if all have come to it: some may wait in another.
static void answer_lanes(int warp, const Thread& last) {
  Thread* lanes = block.threads + warp * kWarp;
  Offer offers[kWarp];
  for (unsigned rest = last.mask; rest != 0; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    if (lanes[i].mask != last.mask) return;
    if (lanes[i].answer != last.answer || lanes[i].site.line != last.site.line)
      fail(("another collective than " + place(lanes[i].site)).c_str(), last.site);
    offers[i] = lanes[i].offer;
  }
  block.in_warp[warp] &= ~last.mask;
  uint64_t result = 0;
  for (unsigned rest = last.mask; rest != 0; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    if (rest == last.mask || last.offer.from != kNoLane) result = last.answer(offers, last.mask, i);
    lanes[i].result = result;
    make_ready(warp * kWarp + i);
  }
}

uint64_t wait_for_lanes(unsigned mask, Offer offer, Answer answer, Site site) {
  const int warp = block.running / kWarp, first = warp * kWarp, mine = block.running % kWarp;
  Thread* lanes = block.threads + first;
  Thread& self = lanes[mine];
  if ((mask >> mine & 1u) == 0) fail("a collective without the lane that calls it", site);
  self.state = State::kInWarp;
  self.site = site;
  self.mask = mask;
  self.answer = answer;
  self.offer = offer;
  if ((block.gone[warp] & mask) != 0) fail("a collective of lanes that have returned", site);
  unsigned& waiting = block.in_warp[warp];
  waiting |= 1u << mine;
  if ((waiting & mask) == mask) answer_lanes(warp, self);
  resume_next(self.context);
  return self.result;
}

void run(const void* kernel, unsigned blocks, unsigned threads, size_t shared, void (*body)(void*),
         void* arguments) {
  const std::lock_guard<std::mutex> guard(one_launch);
  error.clear();
  ++launches;
  const auto most = allowed.find(kernel);
  if (shared > (most == allowed.end() ? 48 * 1024 : most->second))
    error = std::to_string(shared) + " bytes of shared memory are more than were asked for";
  if (blocks == 0 || threads == 0 || threads > kMostThreads) error = "an empty or too large grid";
  if (!error.empty()) return;
  if (stacks == nullptr) make_stacks();
  const Span span = shared_variables();
  gridDim = dim3(blocks);
  blockDim = dim3(threads);
  block.count = static_cast<int>(threads);
  block.body = body;
  block.arguments = arguments;
  std::vector<unsigned> numbers(blocks);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (at_random) std::shuffle(numbers.begin(), numbers.end(), order);
  for (const unsigned number : numbers) {
    blockIdx = {number, 0, 0};
    std::memset(span.begin, kGarbage, span.bytes);
    run_block();
    check_fence(shared);
    if (!error.empty()) return;
  }
}

}  // namespace emulated

// Threads are resumed in turn for 0, else in an order drawn from the seed.
extern "C" void emulator_schedule(unsigned seed) {
  emulated::at_random = seed != 0;
  emulated::order.seed(seed);
}

// The compiler's checks of kernels (build.py): all are told where the source is at fault first.
// A fault outside of kernels is one of the host's.
struct SourceLocation {
  const char* file;
  uint32_t line, column;
};

static void report(const char* what, const SourceLocation* at) {
  const emulated::Site site{at->file, static_cast<int>(at->line)};
  if (emulated::in_kernel()) emulated::fail(what, site);
  std::fprintf(stderr, "%s at %s:%d\n", what, site.file, site.line);
  std::abort();
}

extern "C" void __ubsan_handle_type_mismatch_v1(const SourceLocation* at, uintptr_t) {
  report("an access that is not aligned, or through a null pointer", at);
}
extern "C" void __ubsan_handle_out_of_bounds(const SourceLocation* at, uintptr_t) {
  report("an index outside of its array", at);
}
extern "C" void __ubsan_handle_shift_out_of_bounds(const SourceLocation* at, uintptr_t, uintptr_t) {
  report("a shift by more bits than there are", at);
}

extern "C" int emulator_launches() { return emulated::launches; }

cudaError_t cudaGetLastError() {
  return emulated::error.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}
const char* cudaGetErrorString(cudaError_t) { return emulated::error.c_str(); }

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->sharedSizeBytes = 0;  // not known here
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  emulated::allowed[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = kernomics::kMostShared;
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
