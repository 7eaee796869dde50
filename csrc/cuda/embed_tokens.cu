// embed_tokens on CUDA: the token of cell b and its k-th gene i is [E_i ; x_bk], or E_i + v_bk,
// behind a CLS token where one is given; id −1 is padding, a token of zeros. δ is the gradient of
// the tokens.
//
// Forward: up to 32 threads copy a token in 16-byte pieces, four of a thread under way at a time.
// Backward (embed_gradients.cuh): integer counters give each gene a list of its tokens; a block
// per gene puts its list in order and adds up the δ of those tokens one after the other, as on the
// CPU: the same bits there and on every run. CLS is a gene of its own. dx and dv: copies.
//
// Bytes, N = B·K tokens of d numbers: forward reads the rows of E that occur (and v) and writes
// N rows; backward reads N rows of δ and writes V rows of dE, and for lists 24 bytes a token and
// 16 a gene; dv reads δ once more and writes N rows. Operations: N·d additions.
// The floor is memory: these bytes at the copy rate. The lists take four launches (not measured).
//
// Launch: forward 256 threads; backward a thread for each 16 bytes of a row, 32 to 256 a block.
// Limits: fewer than 2³¹ tokens, and numbers in a row. A gene in most tokens keeps one block busy;
// a list of over 32 tokens is sorted where it lies. Nothing is allocated.
#include <algorithm>
#include <initializer_list>

#include "embed_gradients.cuh"

namespace kernomics {
namespace {

// ---- forward --------------------------------------------------------------------------------

template <typename T, typename I>
struct WriteArgs {
  const I* ids;
  int64_t rows;             // of tokens, CLS included
  uint32_t tokens, length;  // of a cell: K, and with CLS
  int64_t genes;
  int pieces;      // of a token
  int group_bits;  // 2^bits threads write a token
  const T* table;
  int64_t table_stride;
  const T* values;
  int64_t cell_stride, token_stride;
  const T* cls;
  T* out;
};

template <int N, bool kConcat, typename T, typename I>
__global__ void __launch_bounds__(kEmbedThreads) write_tokens(WriteArgs<T, I> a) {
  using P = Piece<T, N>;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kEmbedThreads + threadIdx.x;
  const int64_t row = thread >> a.group_bits;
  const int group = 1 << a.group_bits, lane = static_cast<int>(thread & (group - 1));
  if (row >= a.rows) return;
  const uint32_t cell = static_cast<uint32_t>(row) / a.length;
  const uint32_t place = static_cast<uint32_t>(row) - cell * a.length;
  const bool is_cls = a.length != a.tokens && place == 0;
  const uint32_t k = place - (a.length - a.tokens);
  const int64_t position = static_cast<int64_t>(cell) * a.tokens + k;
  const int64_t gene = is_cls ? 0 : static_cast<int64_t>(a.ids[position]);
  const bool there = is_cls || (gene >= 0 && gene < a.genes);
  const T* from = is_cls ? a.cls : a.table + (there ? gene : 0) * a.table_stride;
  const T* added =
      kConcat || is_cls ? nullptr : a.values + cell * a.cell_stride + k * a.token_stride;
  const T blank = rounded<T>(static_cast<Sum<T>>(gene == -1 ? 0.0f : nanf("")));
  T* out = a.out + row * a.pieces * N;
  for (int first = lane; first < a.pieces; first += kAtOnce * group) {
    P piece[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int v = first + i * group;
      if (v < a.pieces && there) piece[i] = reinterpret_cast<const P*>(from)[v];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int v = first + i * group;
      if (v >= a.pieces) break;
      if (!there) {
#pragma unroll
        for (T& x : piece[i].at) x = blank;
      } else if (!kConcat && !is_cls) {
        const P other = load_once(reinterpret_cast<const P*>(added) + v);
#pragma unroll
        for (int e = 0; e < N; ++e)
          piece[i].at[e] = rounded<T>(widen(piece[i].at[e]) + widen(other.at[e]));
      } else if (!is_cls && v == a.pieces - 1) {
        piece[i].at[N - 1] = a.values[position];
      }
      store_once(reinterpret_cast<P*>(out) + v, piece[i]);
    }
  }
}

// ---- launches -------------------------------------------------------------------------------

void check_sizes(const EmbedShape& s) {
  const int64_t rows = s.cells * (s.tokens + s.with_cls);
  if (rows > INT_MAX || s.width > INT_MAX)
    throw std::runtime_error("embed_tokens on CUDA takes fewer than 2^31 tokens, " +
                             std::to_string(rows) + " of width " + std::to_string(s.width) +
                             " were given; split the cells into calls");
}

// 2^bits threads share a row of so many pieces.
int group_bits_of(int pieces) {
  int bits = 0;
  while (bits < 5 && 1 << bits < pieces) ++bits;
  return bits;
}

// Whether rows of T that begin at the address, `strides` numbers apart, are whole 16-byte pieces.
template <typename T>
bool in_pieces(const void* address, std::initializer_list<int64_t> strides) {
  constexpr int64_t per = 16 / sizeof(T);
  const bool fits =
      std::all_of(strides.begin(), strides.end(), [](int64_t stride) { return stride % per == 0; });
  return fits && reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

template <int N, typename T, typename I>
void forward(const EmbedForward<void>& in, CudaStream stream) {
  const EmbedShape& s = in.shape;
  WriteArgs<T, I> a{};
  a.ids = static_cast<const I*>(s.gene_ids);
  a.tokens = static_cast<uint32_t>(s.tokens);
  a.length = static_cast<uint32_t>(s.tokens + s.with_cls);
  a.rows = s.cells * a.length;
  a.genes = s.genes;
  a.pieces = static_cast<int>(s.width / N);
  a.group_bits = group_bits_of(a.pieces);
  a.table = static_cast<const T*>(in.table);
  a.table_stride = in.table_stride;
  a.values = static_cast<const T*>(in.values);
  a.cell_stride = in.cell_stride;
  a.token_stride = in.token_stride;
  a.cls = static_cast<const T*>(in.cls);
  a.out = static_cast<T*>(in.out);
  const int64_t blocks = divide_up(a.rows << a.group_bits, kEmbedThreads);
  launch("embed_tokens_forward",
         s.concat ? write_tokens<N, true, T, I> : write_tokens<N, false, T, I>, blocks,
         kEmbedThreads, 0, stream, a);
}

template <int N, typename T, typename I>
void grad_added(const EmbedBackward<void>& g, CudaStream stream) {
  const EmbedShape& s = g.shape;
  const int64_t positions = s.cells * s.tokens;
  const int pieces = static_cast<int>(s.width / N), bits = group_bits_of(pieces);
  launch("embed_tokens_grad_values", copy_rows<N, T, I>,
         divide_up(positions << bits, kEmbedThreads), kEmbedThreads, 0, stream,
         static_cast<const I*>(s.gene_ids), positions, static_cast<uint32_t>(s.tokens),
         static_cast<int>(s.with_cls), s.genes, pieces, bits, static_cast<const T*>(g.delta),
         g.token_stride, static_cast<T*>(g.grad_values));
}

template <typename T, typename I>
void grad_values(const EmbedBackward<void>& g, bool pieces, CudaStream stream) {
  const EmbedShape& s = g.shape;
  const int64_t positions = s.cells * s.tokens;
  if (positions == 0) return;
  if (s.concat)
    launch("embed_tokens_grad_values", copy_last_column<T, I>, divide_up(positions, kEmbedThreads),
           kEmbedThreads, 0, stream, static_cast<const I*>(s.gene_ids), positions,
           static_cast<uint32_t>(s.tokens), static_cast<int>(s.with_cls), s.genes, s.width,
           static_cast<const T*>(g.delta), g.token_stride, static_cast<T*>(g.grad_values));
  else if (pieces && in_pieces<T>(g.grad_values, {}))
    grad_added<16 / sizeof(T), T, I>(g, stream);
  else
    grad_added<1, T, I>(g, stream);
}

template <typename I>
void make_lists(const EmbedShape& s, const Lists& lists, CudaStream stream) {
  const I* ids = static_cast<const I*>(s.gene_ids);
  const int64_t positions = s.cells * s.tokens, blocks = divide_up(positions, kEmbedThreads);
  const char* name = "embed_tokens_lists";
  check_cuda(cudaMemsetAsync(lists.counts, 0, (s.genes + 1) * sizeof(int), stream), name);
  if (positions > 0)
    launch(name, count_genes<I>, blocks, kEmbedThreads, 0, stream, ids, positions, s.genes, lists);
  launch(name, reserve_lists, divide_up(s.genes, kEmbedThreads), kEmbedThreads, 0, stream, s.genes,
         lists);
  if (positions > 0)
    launch(name, fill_lists<I>, blocks, kEmbedThreads, 0, stream, ids, positions,
           static_cast<uint32_t>(s.tokens), static_cast<int>(s.with_cls), s.genes, lists);
}

template <int N, typename T>
void grad_rows(const EmbedBackward<void>& g, const Lists& lists, CudaStream stream) {
  const EmbedShape& s = g.shape;
  SumArgs<T> a{};
  a.delta = static_cast<const T*>(g.delta);
  a.token_stride = g.token_stride;
  a.cells = static_cast<uint32_t>(s.cells);
  a.length = static_cast<uint32_t>(s.tokens + s.with_cls);
  a.pieces = static_cast<int>(s.width / N);
  a.concat = s.concat;
  a.with_cls = g.grad_cls != nullptr;
  a.lists = lists;
  a.table = static_cast<T*>(g.grad_table);
  a.cls = static_cast<T*>(g.grad_cls);
  const int64_t blocks = (g.grad_table != nullptr ? s.genes : 0) + (g.grad_cls != nullptr ? 1 : 0);
  const int threads = static_cast<int>(
      std::min<int64_t>(kEmbedThreads, divide_up(a.pieces, kWarpSize) * kWarpSize));
  launch("embed_tokens_grad_table", sum_rows<N, T>, blocks, threads, 0, stream, a);
}

template <typename T, typename I>
void backward(const EmbedBackward<void>& g, void* scratch, CudaStream stream) {
  const EmbedShape& s = g.shape;
  constexpr int kWhole = 16 / sizeof(T);
  const bool pieces = in_pieces<T>(g.delta, {g.token_stride, s.width});
  if (g.grad_values != nullptr) grad_values<T, I>(g, pieces, stream);
  if (g.grad_table == nullptr && g.grad_cls == nullptr) return;
  Lists lists{};
  if (g.grad_table != nullptr) {
    Carver carver(scratch);
    lists = carve_lists(carver, s.cells * s.tokens, s.genes);
    make_lists<I>(s, lists, stream);
  }
  if (pieces && in_pieces<T>(g.grad_table, {}) && in_pieces<T>(g.grad_cls, {}))
    grad_rows<kWhole, T>(g, lists, stream);
  else
    grad_rows<1, T>(g, lists, stream);
}

// Calls body(T(), I()) with the types that the shape names.
template <typename T, typename Body>
void with_ids(const EmbedShape& s, Body body) {
  if (s.wide_ids)
    body(T(), int64_t());
  else
    body(T(), int32_t());
}

template <typename Body>
void with_types(const EmbedShape& s, Body body) {
  if (s.kind == kFloat64)
    with_ids<double>(s, body);
  else if (s.kind == kBFloat16)
    with_ids<__nv_bfloat16>(s, body);
  else if (s.kind == kFloat16)
    with_ids<__half>(s, body);
  else
    with_ids<float>(s, body);
}

}  // namespace

void embed_tokens_forward(const EmbedForward<void>& in, CudaStream stream) {
  const EmbedShape& s = in.shape;
  check_sizes(s);
  if (s.cells * (s.tokens + s.with_cls) == 0) return;
  with_types(s, [&](auto t, auto i) {
    using T = decltype(t);
    using I = decltype(i);
    const bool table = in_pieces<T>(in.table, {in.table_stride, s.width});
    const bool values = s.concat || in_pieces<T>(in.values, {in.cell_stride, in.token_stride});
    if (table && values && in_pieces<T>(in.cls, {}) && in_pieces<T>(in.out, {}))
      forward<16 / sizeof(T), T, I>(in, stream);
    else
      forward<1, T, I>(in, stream);
  });
}

size_t embed_tokens_backward_scratch(const EmbedBackward<void>& g) {
  if (g.grad_table == nullptr) return 0;
  Carver carver(nullptr);
  carve_lists(carver, g.shape.cells * g.shape.tokens, g.shape.genes);
  return carver.used();
}

void embed_tokens_backward(const EmbedBackward<void>& g, void* scratch, CudaStream stream) {
  check_sizes(g.shape);
  with_types(g.shape,
             [&](auto t, auto i) { backward<decltype(t), decltype(i)>(g, scratch, stream); });
}

}  // namespace kernomics
