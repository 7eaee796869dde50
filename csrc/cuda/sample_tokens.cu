// sample_tokens on CUDA: per cell the K candidate genes with the smallest keys, and their values.
// The key of a gene is its Philox word, or E/w with E the exponential number of the word; the same
// genes to the bit as on the CPU.
//
// A block per cell. One sweep (token_row.cuh) computes the keys of the cell's entries, or of all
// genes, and marks the K smallest in a bitmap in shared memory (smallest.cuh); with weights, two.
// The set bits are counted and written in order through shared memory, so that tokens leave in
// whole lines; the entries of a cell find their tokens by the counts. Rows without gaps: the same
// into scratch, then the lengths are added up and the rows copied together.
//
// Bytes: 8 an entry (float32, int32 columns), read once from memory and again from the caches;
// 8·K written a cell, twice more and once read for rows without gaps.
// Operations, counted in the source and not yet measured: about 80 instructions for an entry, or 35
// for a gene, of which Philox takes 50 (a call gives four genes' words), and 40 for a token. For
// 3,000 entries and K = 1,024 the floor of bytes (0.13 GB for 4,096 cells, 31 µs at 4.3 TB/s) is
// then about half of what the instructions take on an H200.
// Launch: 256 threads, 17 KB of shared memory and 8 bytes for 32 genes. Nothing is allocated.
// Limits: 2³⁰ genes; beyond 320,000 the bitmaps lie in scratch. float64 log1p is CUDA's, within an
// ulp of the CPU's. Sums of a row (no library) run in another fixed order than the CPU's: equal
// for whole counts.
#include <algorithm>

#include "launch.h"
#include "token_row.cuh"

namespace kernomics {
namespace {

constexpr int kTokenThreads = 256;
constexpr int kScanThreads = 1024;
constexpr size_t kSharedBitmaps = 80 * 1024;  // of a block; with the rest within every GPU's 99 KB
constexpr size_t kScratchBitmaps = 64ull << 20;  // of all blocks together
constexpr int64_t kPersistentBlocks = 528;

int64_t bitmap_words(int64_t genes) { return (genes + 31) / 32; }

size_t bitmap_bytes(int64_t genes) {
  return 2 * sizeof(uint32_t) * static_cast<size_t>(bitmap_words(genes));
}

// Blocks that share a scratch of bitmaps; 0 where those fit in shared memory.
int64_t scratch_blocks(int64_t rows, int64_t genes) {
  const size_t bytes = bitmap_bytes(genes);
  if (bytes <= kSharedBitmaps) return 0;
  const int64_t fit = static_cast<int64_t>(kScratchBitmaps / bytes);
  return std::max<int64_t>(1, std::min({rows, kPersistentBlocks, fit}));
}

// ---- one row --------------------------------------------------------------------------------

// Fills in the row; false for one that must not be read.
template <typename T, typename C>
__device__ bool open_row(const TokenJob<T, C>& a, int64_t r, TokenRow<T, C>& row) {
  const int64_t begin = a.indptr[r], end = a.indptr[r + 1];
  if (begin < 0 || end < begin || end > a.stored || end - begin > a.genes) return false;
  const int64_t panel = a.panel_id == nullptr ? 0 : a.panel_id[r];
  if (a.panel_id != nullptr && (panel < 0 || panel >= a.panels)) return false;
  const int64_t id = a.cell_ids == nullptr ? r : a.cell_ids[r];
  if (static_cast<uint64_t>(id) >> 48 != 0) return false;
  if (a.library != nullptr && !sound(a.library[r])) return false;
  row.columns = a.columns + begin;
  row.values = a.values + begin;
  row.stored = static_cast<int>(end - begin);
  row.genes = a.genes;
  row.mask = a.panel_id == nullptr ? nullptr : a.panel_mask + panel * a.genes;
  row.weights = a.weights;
  row.log1p = a.log1p;
  row.drawable = a.seed != nullptr;
  const Seed seed = read_seed(a.seed);
  row.key = philox_key(seed.key);
  row.counter = philox_row_counter(id, a.stream, seed.step);
  row.bad = false;
  return true;
}

// How many candidates there probably are.
template <typename Source, typename T, typename C>
__device__ int expected_candidates(const TokenJob<T, C>& a, int64_t r, const Source& source) {
  if (Source::kExpressed || a.panel_id == nullptr) return source.items();
  const int64_t count = a.panel_counts[a.panel_id[r]];
  return static_cast<int>(min(max(count, int64_t{0}), static_cast<int64_t>(a.genes)));
}

// What the row's counts are multiplied by: target / library, nothing for a library of 0.
template <typename T>
struct Scale {
  T factor;
  double target, library;
};

template <typename T, typename C>
__device__ void find_scale(Block& b, const TokenJob<T, C>& a, int64_t r, TokenRow<T, C>& row,
                           Scale<T>* scale) {
  double library = 0;
  if (a.library != nullptr) {
    library = a.library[r];
  } else if (a.target_sum != 0) {
    for (int i = b.thread; i < row.stored; i += b.threads)
      library += static_cast<double>(row.values[i]);
    library = b.sum(library);
    if (!sound(library)) row.bad = true;  // only float64 counts can have a sum beyond float64
  }
  if (b.thread != 0) return;
  if (a.target_sum == 0)
    *scale = {T(1), 1, 1};
  else
    *scale = {library > 0 ? static_cast<T>(a.target_sum / library) : T(0), a.target_sum, library};
}

template <typename T>
__device__ T value_of(T count, bool log1p, const Scale<T>& scale) {
  return log1p ? log1p_scaled(count, scale.factor, scale.target, scale.library) : count;
}

// A row with a fault: genes that are there and NaN, so that a loss becomes NaN.
template <typename T, typename C>
__device__ void spoil_row(const Block& b, const TokenJob<T, C>& a, int64_t r) {
  int32_t* genes = a.gene_ids + r * a.n_tokens;
  T* tokens = a.tokens + r * a.n_tokens;
  for (int p = b.thread; p < a.n_tokens; p += b.threads) {
    genes[p] = p < a.genes ? p : -1;
    tokens[p] = p < a.genes ? static_cast<T>(nanf("")) : T(0);
  }
  if (a.lengths != nullptr && b.thread == 0) a.lengths[r] = min(a.n_tokens, a.genes);
}

// Counts the marked items before each word of the bitmap.
__device__ void count_marks(Block& b, const uint32_t* bits, int words, int* before) {
  int base = 0;
  for (int first = 0; first < words; first += b.threads) {
    const int w = first + b.thread;
    const Scan marks = scan(b, w < words ? __popc(bits[w]) : 0);
    if (w < words) before[w] = base + marks.before;
    base += marks.total;
  }
  __syncthreads();
}

// Lists marked items tile … tile + kBins − 1. A thread takes a byte of the bitmap at a time.
__device__ void stage_marks(const Block& b, const uint32_t* bits, int words, const int* before,
                            int tile, int* staged) {
  for (int u = b.thread; u < 4 * words; u += b.threads) {
    const uint32_t word = bits[u / 4], shift = 8 * (u % 4);
    uint32_t byte = word >> shift & 0xffu;
    int p = before[u / 4] + __popc(word & ((1u << shift) - 1)) - tile;
    if (p >= kBins || p + 8 <= 0) continue;
    for (; byte != 0; byte &= byte - 1, ++p)
      if (p >= 0 && p < kBins) staged[p] = 8 * u + __ffs(byte) - 1;
  }
  __syncthreads();
}

// Writes the `count` marked items as tokens of ascending genes, and padding.
template <typename T, typename C, typename Source>
__device__ void write_row(Block& b, const TokenJob<T, C>& a, int64_t r, Source& source, int* before,
                          int* staged, int count, const Scale<T>& scale) {
  const int words = (source.items() + 31) / 32;
  int32_t* genes = a.gene_ids + r * a.n_tokens;
  T* tokens = a.tokens + r * a.n_tokens;
  count_marks(b, source.bits, words, before);
  for (int tile = 0; tile < count; tile += kBins) {
    stage_marks(b, source.bits, words, before, tile, staged);
    const int here = min(count - tile, kBins);
#pragma unroll 4
    for (int p = b.thread; p < here; p += b.threads) {
      const int item = staged[p];
      if constexpr (Source::kExpressed) {
        genes[tile + p] = static_cast<int32_t>(source.columns[item]);
        tokens[tile + p] = value_of(source.values[item], a.log1p, scale);
      } else {
        genes[tile + p] = item;
        tokens[tile + p] = T(0);
      }
    }
    __syncthreads();
  }
  for (int p = count + b.thread; p < a.n_tokens; p += b.threads) {
    genes[p] = -1;
    tokens[p] = T(0);
  }
  if constexpr (!Source::kExpressed) {  // entries find their tokens
    for (int i = b.thread; i < source.stored; i += b.threads) {
      const C column = source.columns[i];
      const T value = source.values[i];
      source.check(i, column, value);
      if (!source.in_range(column)) continue;
      const int w = static_cast<int>(column / 32), bit = static_cast<int>(column % 32);
      const uint32_t word = source.bits[w];
      if ((word >> bit & 1u) != 0)
        tokens[before[w] + __popc(word & ((1u << bit) - 1))] = value_of(value, a.log1p, scale);
    }
  }
}

template <typename Source, typename T, typename C>
__global__ void __launch_bounds__(kTokenThreads, 4) draw_tokens(TokenJob<T, C> a) {
  __shared__ BlockSlots slots;
  __shared__ Choice choice;
  __shared__ Scale<T> scale;
  Block b(slots);
  const int words = (a.genes + 31) / 32;
  uint32_t* bits = a.bits == nullptr ? reinterpret_cast<uint32_t*>(dynamic_shared())
                                     : a.bits + blockIdx.x * (2 * static_cast<int64_t>(words));
  int* before = reinterpret_cast<int*>(bits + words);
  for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    Source source;
    source.bits = bits;
    if (!open_row(a, r, static_cast<TokenRow<T, C>&>(source))) {  // the same for all threads
      spoil_row(b, a, r);
      continue;
    }
    if (a.log1p) find_scale(b, a, r, static_cast<TokenRow<T, C>&>(source), &scale);
    const int count =
        choose_smallest(b, source, choice, a.n_tokens, expected_candidates(a, r, source));
    if (count >= 0) {
      write_row(b, a, r, source, before, choice.staged, count, scale);
      if (a.lengths != nullptr && b.thread == 0) a.lengths[r] = count;
    }
    // The barrier also ends the use of shared memory for this row.
    if (__syncthreads_or(source.bad || count < 0 ? 1 : 0)) spoil_row(b, a, r);
  }
}

// ---- rows without gaps ----------------------------------------------------------------------

__global__ void __launch_bounds__(kScanThreads)
    add_lengths(const int* lengths, int64_t rows, int64_t* offsets) {
  __shared__ BlockSlots slots;
  Block b(slots);
  if (b.thread == 0) offsets[0] = 0;
  int64_t base = 0;
  for (int64_t first = 0; first < rows; first += b.threads) {
    const int64_t row = first + b.thread;
    long long sum = row < rows ? lengths[row] : 0;
    for (int step = 1; step < kWarpSize; step *= 2) {
      const long long left = __shfl_up_sync(kAllLanes, sum, step);
      if (b.lane >= step) sum += left;
    }
    const uint64_t* words =
        b.exchange(static_cast<uint64_t>(__shfl_sync(kAllLanes, sum, kWarpSize - 1)));
    int64_t total = 0;
    for (int w = 0; w < b.warps; ++w) {
      if (w == b.warp) sum += total;
      total += static_cast<int64_t>(words[w]);
    }
    if (row < rows) offsets[row + 1] = base + sum;
    base += total;
  }
}

// A block copies a row to where its offset says, and fills its share of the room that is left.
template <typename T>
__global__ void __launch_bounds__(kTokenThreads)
    close_gaps(const int32_t* from_genes, const T* from_tokens, int n_tokens, int64_t rows,
               const int64_t* offsets, int32_t* genes, T* tokens) {
  const int64_t r = blockIdx.x, begin = offsets[r], from = r * n_tokens;
  const int count = static_cast<int>(offsets[r + 1] - begin);
  for (int p = threadIdx.x; p < count; p += kTokenThreads) {
    genes[begin + p] = from_genes[from + p];
    tokens[begin + p] = from_tokens[from + p];
  }
  // Row r has n_tokens − count tokens less than it may: that many are filled, from the end.
  const int64_t end = rows * n_tokens - (from - begin);
  for (int64_t p = end - (n_tokens - count) + threadIdx.x; p < end; p += kTokenThreads) {
    genes[p] = -1;
    tokens[p] = T(0);
  }
}

// ---- launches -------------------------------------------------------------------------------

template <typename T>
void check_sizes(const SampleTokens<T>& args) {
  constexpr int64_t kMost = int64_t{1} << 30;
  if (args.genes > kMost || args.n_tokens > kMost)
    throw std::runtime_error("sample_tokens on CUDA takes at most 2^30 genes and tokens a cell, " +
                             std::to_string(args.genes) + " and " + std::to_string(args.n_tokens) +
                             " were given");
}

template <typename T>
struct TokenScratch {
  uint32_t* bits;
  int32_t* gene_ids;
  T* tokens;
  int* lengths;
};

template <typename T>
TokenScratch<T> carve_tokens(Carver& carver, const SampleTokens<T>& args) {
  TokenScratch<T> s{};
  const int64_t blocks = scratch_blocks(args.rows, args.genes);
  if (blocks > 0) s.bits = carver.take<uint32_t>(blocks * 2 * bitmap_words(args.genes));
  if (args.offsets == nullptr) return s;
  s.gene_ids = carver.take<int32_t>(args.rows * args.n_tokens);
  s.tokens = carver.take<T>(args.rows * args.n_tokens);
  s.lengths = carver.take<int>(args.rows);
  return s;
}

template <typename Source, typename T, typename C>
void launch_draw(const TokenJob<T, C>& job, CudaStream stream) {
  const int64_t blocks = scratch_blocks(job.rows, job.genes);
  launch("sample_tokens", draw_tokens<Source, T, C>, blocks > 0 ? blocks : job.rows, kTokenThreads,
         blocks > 0 ? 0 : bitmap_bytes(job.genes), stream, job);
}

template <typename T, typename C>
void draw(const SampleTokens<T>& args, const TokenScratch<T>& s, CudaStream stream) {
  const bool ragged = args.offsets != nullptr;
  TokenJob<T, C> job{};
  job.values = args.values;
  job.indptr = args.indptr;
  job.columns = static_cast<const C*>(args.columns);
  job.stored = args.stored;
  job.rows = args.rows;
  job.genes = static_cast<int>(args.genes);
  job.n_tokens = static_cast<int>(args.n_tokens);
  job.seed = args.seed;
  job.cell_ids = args.cell_ids;
  job.stream = args.stream;
  job.library = args.library;
  job.panel_id = args.panel_id;
  job.panel_mask = args.panel_mask;
  job.panel_counts = args.panel_counts;
  job.panels = args.panels;
  job.weights = args.weights;
  job.log1p = args.log1p;
  job.target_sum = args.target_sum;
  job.gene_ids = ragged ? s.gene_ids : args.gene_ids;
  job.tokens = ragged ? s.tokens : args.tokens;
  job.lengths = s.lengths;
  job.bits = s.bits;
  const bool weighted = args.weights != nullptr;
  if (args.expressed && weighted) return launch_draw<Entries<true, T, C>>(job, stream);
  if (args.expressed) return launch_draw<Entries<false, T, C>>(job, stream);
  if (weighted) return launch_draw<Genes<true, T, C>>(job, stream);
  launch_draw<Genes<false, T, C>>(job, stream);
}

}  // namespace

template <typename T>
size_t sample_tokens_scratch(const SampleTokens<T>& args) {
  check_sizes(args);
  Carver carver(nullptr);
  carve_tokens(carver, args);
  return carver.used();
}

template <typename T>
void sample_tokens(const SampleTokens<T>& args, void* scratch, CudaStream stream) {
  check_sizes(args);
  const bool ragged = args.offsets != nullptr;
  if (args.rows == 0 || args.n_tokens == 0) {
    if (ragged)
      check_cuda(cudaMemsetAsync(args.offsets, 0, (args.rows + 1) * sizeof(int64_t), stream),
                 "sample_tokens");
    return;
  }
  Carver carver(scratch);
  const TokenScratch<T> s = carve_tokens(carver, args);
  if (args.wide_columns)
    draw<T, int64_t>(args, s, stream);
  else
    draw<T, int32_t>(args, s, stream);
  if (!ragged) return;
  launch("sample_tokens, offsets", add_lengths, 1, kScanThreads, 0, stream, s.lengths, args.rows,
         args.offsets);
  launch("sample_tokens, rows without gaps", close_gaps<T>, args.rows, kTokenThreads, 0, stream,
         s.gene_ids, s.tokens, static_cast<int>(args.n_tokens), args.rows, args.offsets,
         args.gene_ids, args.tokens);
}

#define KN_INSTANTIATE(T)                                           \
  template size_t sample_tokens_scratch<T>(const SampleTokens<T>&); \
  template void sample_tokens<T>(const SampleTokens<T>&, void*, CudaStream);

KN_INSTANTIATE(float)
KN_INSTANTIATE(double)

}  // namespace kernomics
