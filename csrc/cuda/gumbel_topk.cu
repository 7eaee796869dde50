// gumbel_topk on CUDA: y = s + scale·g, the k best genes of each row, a 0/1 mask; backward is the
// gradient of a relaxed mask. The same y to the bit, and so the same genes, as on the CPU.
//
// Forward (choose.cuh, select.cuh): a block reads a chunk of a row once, draws its noise once and
// keeps it as keys in shared memory; bisection finds the k-th largest; ballots place the winners
// in order. A row is one chunk when it fits (20,480 float32, 10,240 float64) and there are enough
// rows; otherwise several, and a second kernel chooses among their winners.
// Backward (softsort.cuh, neuralsort.cuh): SoftSort in three kernels, O(G + k log k) a row.
//
// Bytes: forward R·G·T read and R·G·T written (mask), R·G·T more when y is kept; backward 5·R·G·T,
// of which L2 serves what it still holds.
// Operations: forward about 85 instructions a gene for Philox, Gumbel and the key (counted in
// sm_90 code) and 8 to select. So arithmetic bounds it: at 128 lanes and 1.8 GHz a multiprocessor
// takes about 0.4 µs for 1,000 genes. Without noise the bytes do.
// Launch: at most 512 threads and 97 KB of shared memory a block, two blocks per multiprocessor.
// Limits: compute capability 8.0, 2³⁰ genes. Rows of several chunks whose winners together exceed
// one chunk (k·chunks > 20,480) are selected from global memory by one block each: slow, exact.
#include <algorithm>

#include "launch.h"
#include "neuralsort.cuh"

namespace kernomics {
namespace {

constexpr int kFewBlocks = 132;                // below so many blocks, rows are split further
constexpr int kPersistentBlocks = 528;         // at most, where each block has scratch of its own
constexpr size_t kScratchBudget = 128u << 20;  // for all those blocks together
constexpr size_t kChunkBytes = 80 * 1024;      // keys that a block holds
constexpr int kMemorySurvivors = 1024;

template <typename T>
constexpr int kChunkCapacity = static_cast<int>(kChunkBytes / sizeof(T));
template <typename T>
constexpr int kChunkSurvivors = sizeof(T) == 4 ? 2048 : 1280;

bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

void check_size(int64_t genes) {
  if (genes > int64_t{1} << 30)
    throw std::runtime_error("gumbel_topk on CUDA takes at most 2^30 genes a row, " +
                             std::to_string(genes) + " were given");
}

template <typename T>
constexpr size_t survivor_bytes(int count) {
  return count * (sizeof(typename KeyOf<T>::Key) + sizeof(int));
}

// ---- backward and reach ---------------------------------------------------------------------

// Blocks of a kernel in which each has `bytes` of scratch.
int64_t persistent_blocks(int64_t rows, size_t bytes) {
  const int64_t fit = static_cast<int64_t>(kScratchBudget / std::max<size_t>(bytes, 1));
  return std::max<int64_t>(1, std::min<int64_t>({rows, kPersistentBlocks, fit}));
}

// Places the scratch of the relaxation's kernels; returns the blocks of its persistent kernel.
template <typename T>
int64_t carve_relaxed(Carver& carver, RelaxedArgs<T>& a) {
  a.blocks = static_cast<int>(divide_up(a.genes, kSumBlock));
  a.scans = nullptr;
  size_t bytes = 0;  // of a block's scratch
  if (a.relaxation == kNeuralSort) {
    if (a.genes > kSharedWindow) bytes = WindowArrays<T>::bytes(a.genes);
  } else {
    a.sums = carver.take<BlockSums>(a.rows * a.blocks);
    a.coefficients = carver.take<RowCoefficients<T>>(a.rows);
    if (a.relaxation == kSoftSort && a.k > kSharedWinners) bytes = WinnerScans<T>::bytes(a.k);
  }
  const int64_t blocks = persistent_blocks(a.rows, bytes);
  if (bytes > 0) a.scans = carver.take<unsigned char>(blocks * static_cast<int64_t>(bytes));
  return blocks;
}

// Γ or the gradient into a.out, the reach into a.reached, whichever is asked for.
template <typename T>
void run_relaxed(RelaxedArgs<T> a, Carver& carver, CudaStream stream) {
  const int64_t blocks = carve_relaxed(carver, a);
  a.pack = a.genes % 4 == 0 && aligned(a.y) && aligned(a.u) && aligned(a.out);
  const size_t selecting = survivor_bytes<T>(kMemorySurvivors);
  if (a.relaxation == kNeuralSort) {
    const int window = std::min(a.genes, kSharedWindow);
    launch("neuralsort_rows", neuralsort_rows<T>, blocks, kNeuralThreads,
           selecting + WindowArrays<T>::bytes(window), stream, a, window, kMemorySurvivors);
    return;
  }
  // Small blocks where there are few, so that they spread over the chip.
  const int threads = a.rows * a.blocks < 16 * kFewBlocks ? kWarpSize : kWriteThreads;
  launch("sum_blocks", sum_blocks<T>, a.rows * divide_up(a.blocks, threads / kSumLanes), threads, 0,
         stream, a);
  const int winners = a.relaxation == kSoftSort ? a.k : 1;
  const bool in_shared = a.relaxation == kSoftSort && a.scans == nullptr;
  const int scan_threads =
      static_cast<int>(std::min<int64_t>(kScanThreads, divide_up(winners, kWarpSize) * kWarpSize));
  launch("scan_rows", scan_rows<T>, blocks, std::max(scan_threads, 64),
         in_shared ? WinnerScans<T>::bytes(a.k) : 0, stream, a);
  if (a.out != nullptr)
    launch("write_others", write_others<T>, a.rows * divide_up(a.genes, 4 * kWriteThreads),
           kWriteThreads, 0, stream, a);
  if (a.reached != nullptr)
    launch("reach_rows", reach_rows<T>, a.rows, kMemoryThreads, selecting, stream, a,
           kMemorySurvivors);
}

template <typename T>
RelaxedArgs<T> relaxed_args(const RelaxedTopk<T>& params) {
  check_size(params.genes);
  RelaxedArgs<T> a{};
  a.y = params.y;
  a.indices = params.indices;
  a.u = params.u;
  a.out = params.out;
  a.rows = params.rows;
  a.genes = static_cast<int>(params.genes);
  a.k = static_cast<int>(params.k);
  a.relaxation = params.relaxation;
  a.tau = params.tau;
  return a;
}

// The same for the reach of a forward pass with a y of its own.
template <typename T>
RelaxedArgs<T> reach_args(const GumbelTopk<T>& params, const T* y) {
  RelaxedTopk<T> relaxed{};
  relaxed.y = y;
  relaxed.indices = params.indices;
  relaxed.rows = params.rows;
  relaxed.genes = params.genes;
  relaxed.k = params.k;
  relaxed.tau = params.tau;
  relaxed.relaxation = params.relaxation;
  RelaxedArgs<T> a = relaxed_args(relaxed);
  a.reached = params.grad_indices;
  a.reach = params.reach;
  return a;
}

// ---- forward --------------------------------------------------------------------------------

// How the rows are cut into chunks, from the sizes alone: scratch and launch must agree.
struct ChoosePlan {
  int chunk, splits, local;
  bool from_memory;  // the candidates of all chunks would not fit in one block
};

template <typename T>
ChoosePlan plan_choice(int64_t rows, int64_t genes, int64_t k) {
  constexpr int64_t capacity = kChunkCapacity<T>;
  int64_t splits = divide_up(genes, capacity);
  if (rows * splits < kFewBlocks) {
    // A chunk much smaller than 4k would pass too large a part of its columns on.
    const int64_t wanted = divide_up(genes, kFewBlocks / std::min<int64_t>(rows, kFewBlocks));
    const int64_t chunk = std::min(capacity, std::max<int64_t>({wanted, 1024, 4 * k}));
    splits = divide_up(genes, chunk);
  }
  ChoosePlan plan{};
  const int64_t chunk = divide_up(divide_up(genes, splits), 4) * 4;
  plan.chunk = static_cast<int>(chunk);
  plan.splits = static_cast<int>(divide_up(genes, chunk));
  if (plan.splits > 1) {
    const int64_t local = std::min(k, chunk);
    plan.from_memory = plan.splits * local > capacity;
    plan.local = plan.from_memory ? 0 : static_cast<int>(local);
  }
  return plan;
}

// Places the scratch of the forward pass: y where it is needed but not kept, then candidates.
template <typename T>
void carve_choice(Carver& carver, const ChoosePlan& plan, bool needs_y, ChooseArgs<T>& a) {
  if (needs_y && a.y == nullptr) a.y = carver.take<T>(a.rows * a.genes);
  if (plan.splits == 1) return;
  const int64_t chunks = a.rows * plan.splits;
  a.census = carver.take<Census>(chunks);
  a.candidate_keys = carver.take<typename KeyOf<T>::Key>(chunks * plan.local);
  a.candidate_columns = carver.take<int>(chunks * plan.local);
}

}  // namespace

template <typename T>
size_t gumbel_topk_forward_scratch(const GumbelTopk<T>& args) {
  if (args.rows == 0) return 0;
  check_size(args.genes);
  Carver carver(nullptr);
  const ChoosePlan plan = plan_choice<T>(args.rows, args.genes, args.k);
  ChooseArgs<T> choose{};
  choose.rows = args.rows;
  choose.genes = static_cast<int>(args.genes);
  choose.y = args.y;
  carve_choice(carver, plan, args.reach > 0 || plan.from_memory, choose);
  if (args.reach > 0) {
    RelaxedArgs<T> relaxed = reach_args<T>(args, nullptr);
    carve_relaxed(carver, relaxed);
  }
  return carver.used();
}

template <typename T>
void gumbel_topk_forward(const GumbelTopk<T>& args, void* scratch, CudaStream stream) {
  if (args.rows == 0) return;
  check_size(args.genes);
  const ChoosePlan plan = plan_choice<T>(args.rows, args.genes, args.k);
  Carver carver(scratch);
  ChooseArgs<T> a{};
  a.scores = args.scores;
  a.row_stride = args.row_stride;
  a.rows = args.rows;
  a.genes = static_cast<int>(args.genes);
  a.k = static_cast<int>(args.k);
  a.noise_scale = static_cast<T>(args.noise_scale);
  a.seed = args.seed;
  a.row_ids = args.noise_scale == 0 ? nullptr : args.row_ids;
  a.stream = args.stream;
  a.y = args.y;
  a.mask = args.mask;
  a.indices = args.indices;
  a.faults = args.faults;
  a.chunk = plan.chunk;
  a.splits = plan.splits;
  a.local = plan.local;
  carve_choice(carver, plan, args.reach > 0 || plan.from_memory, a);
  constexpr int64_t per = 16 / sizeof(T);
  a.pack_scores = aligned(a.scores) && (a.rows == 1 || a.row_stride % per == 0);
  a.pack_y = aligned(a.y) && (a.rows == 1 || a.genes % per == 0);

  a.survivors = std::min(kChunkSurvivors<T>, plan.chunk);
  const int threads = static_cast<int>(
      std::min<int64_t>(kChunkThreads, divide_up(plan.chunk, 4 * kWarpSize) * kWarpSize));
  launch("choose_in_chunks", choose_in_chunks<T>, a.rows * plan.splits, threads,
         plan.chunk * sizeof(T) + survivor_bytes<T>(a.survivors), stream, a);
  if (plan.from_memory) {
    a.survivors = kMemorySurvivors;
    launch("choose_in_memory", choose_in_memory<T>, a.rows, kMemoryThreads,
           survivor_bytes<T>(a.survivors), stream, a);
  } else if (plan.splits > 1) {
    const int candidates = plan.splits * plan.local;
    a.survivors = std::min(kChunkSurvivors<T>, candidates);
    launch("choose_of_candidates", choose_of_candidates<T>, a.rows, kChunkThreads,
           candidates * sizeof(T) + survivor_bytes<T>(a.survivors), stream, a);
  }
  if (args.reach > 0) run_relaxed(reach_args<T>(args, a.y), carver, stream);
}

template <typename T>
size_t gumbel_topk_relaxed_scratch(const RelaxedTopk<T>& params) {
  if (params.rows == 0) return 0;
  Carver carver(nullptr);
  RelaxedArgs<T> a = relaxed_args(params);
  carve_relaxed(carver, a);
  return carver.used();
}

template <typename T>
void gumbel_topk_relaxed(const RelaxedTopk<T>& params, void* scratch, CudaStream stream) {
  if (params.rows == 0) return;
  Carver carver(scratch);
  run_relaxed(relaxed_args(params), carver, stream);
}

#define KN_INSTANTIATE(T)                                                        \
  template size_t gumbel_topk_forward_scratch<T>(const GumbelTopk<T>&);          \
  template void gumbel_topk_forward<T>(const GumbelTopk<T>&, void*, CudaStream); \
  template size_t gumbel_topk_relaxed_scratch<T>(const RelaxedTopk<T>&);         \
  template void gumbel_topk_relaxed<T>(const RelaxedTopk<T>&, void*, CudaStream);

KN_INSTANTIATE(float)
KN_INSTANTIATE(double)

}  // namespace kernomics
