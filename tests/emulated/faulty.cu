// Kernels with the faults that the emulator is to find.
#include "../../csrc/cuda/block.cuh"
#include "cuda_runtime.h"

namespace {

using kernomics::dynamic_shared;
using kernomics::kAllLanes;

__global__ void leave_before_the_barrier(int*) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
}

__global__ void meet_at_two_barriers(int*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void wait_for_block_and_for_lanes(int*) {
  if (threadIdx.x % 2 == 0)
    __syncthreads();
  else
    __ballot_sync(kAllLanes, 1);
}

__global__ void leave_before_the_vote(int*) {
  if (threadIdx.x == 5) return;
  __ballot_sync(kAllLanes, 1);
}

__global__ void meet_in_two_collectives(int* out) {
  if (threadIdx.x % 2 == 0)
    *out = __shfl_sync(kAllLanes, *out, 0);
  else
    *out = __reduce_add_sync(kAllLanes, *out);
}

__global__ void read_a_lane_outside_of_the_mask(int* out) {
  if (threadIdx.x % 32 < 16) *out = __shfl_sync(0xffffu, *out, 20);
}

__global__ void write_beyond_shared_memory(int*) { dynamic_shared()[64 + threadIdx.x] = 0; }

__global__ void write_off_alignment(int*) {
  *reinterpret_cast<int2*>(dynamic_shared() + 4) = make_int2(1, 2);
}

__global__ void leave_an_array(int* out) {
  __shared__ int values[32];
  values[threadIdx.x] = 1;
  *out = values[0];
}

__global__ void shift_too_far(int* out) { *out = 1 << (threadIdx.x + 1); }

// out[t] is to be t + 1, from the next thread, which may not have written it.
__global__ void forget_the_barrier(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}

// The same; whether it is wrong depends on the order of threads.
__global__ void forget_the_second_barrier(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
  values[63 - threadIdx.x] = -1;
}

struct Fault {
  const char* name;
  void (*kernel)(int*);
};

constexpr Fault kFaults[] = {
    {"leave_before_the_barrier", leave_before_the_barrier},
    {"meet_at_two_barriers", meet_at_two_barriers},
    {"wait_for_block_and_for_lanes", wait_for_block_and_for_lanes},
    {"leave_before_the_vote", leave_before_the_vote},
    {"meet_in_two_collectives", meet_in_two_collectives},
    {"read_a_lane_outside_of_the_mask", read_a_lane_outside_of_the_mask},
    {"write_beyond_shared_memory", write_beyond_shared_memory},
    {"write_off_alignment", write_off_alignment},
    {"leave_an_array", leave_an_array},
    {"shift_too_far", shift_too_far},
    {"forget_the_barrier", forget_the_barrier},
    {"forget_the_second_barrier", forget_the_second_barrier},
};

}  // namespace

// Runs a kernel of 64 threads and 64 bytes on out[64]; returns what the emulator says, or "".
extern "C" const char* emulator_run_faulty(const char* name, int* out) {
  for (const Fault& fault : kFaults) {
    if (std::strcmp(fault.name, name) != 0) continue;
    emulated::launch(fault.kernel, 1, 64, 64, nullptr, out);
    return cudaGetLastError() == cudaSuccess ? "" : cudaGetErrorString(cudaErrorLaunchFailure);
  }
  return "no such kernel";
}
