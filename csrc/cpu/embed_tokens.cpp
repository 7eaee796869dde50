// embed_tokens on the CPU: the token of cell b and its k-th gene i is [E_i ; x_bk], or E_i + v_bk,
// behind a CLS token where one is given; id −1 is padding, a token of zeros. δ is the gradient of
// the tokens.
//
// Forward: each thread writes a run of consecutive tokens, the rows of E that come next being
// prefetched. Backward: a stable counting sort brings the positions of each gene together; whole
// rows of dE belong to one thread, which adds their δ in the order of the positions, so that
// neither threads nor schedule change a bit. The same sweep writes dx or dv while δ is in cache.
// Bytes, N = B·K tokens of d numbers: forward reads N rows of E (and v) and writes N rows; backward
// reads N rows of δ and writes G rows of dE (and N rows of dv). Operations: N·d additions.
// The floor is memory: these bytes at the copy rate.
// Limits: B and K below 2³¹. The sort is serial; a gene that holds most tokens keeps one thread
// busy.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "half.h"
#include "isa.h"
#include "kernels.h"
#include "pages.h"
#include "scratch.h"

namespace kernomics {
namespace {

constexpr int64_t kAhead = 4;                      // tokens between prefetch and use
constexpr int64_t kGeneBlock = 32;                 // rows of dE that a thread takes at a time
constexpr int64_t kSerialWork = int64_t(1) << 16;  // numbers; fewer are not worth other threads

template <typename T>
KN_INLINE void prefetch_row(const T* row, int64_t width) {
  const char* bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < width * static_cast<int64_t>(sizeof(T)); i += 64)
    __builtin_prefetch(bytes + i);
}

KN_INLINE int64_t id_at(const EmbedShape& s, int64_t position) {
  return s.wide_ids ? static_cast<const int64_t*>(s.gene_ids)[position]
                    : static_cast<const int32_t*>(s.gene_ids)[position];
}

// ---- forward --------------------------------------------------------------------------------

template <typename I>
KN_INLINE Report check_listed(const I* ids, const EmbedShape& s) {
  const int64_t count = s.cells * s.tokens;
  int bad = 0;
  for (int64_t p = 0; p < count; ++p) bad |= (ids[p] < -1) | (ids[p] >= s.genes);
  if (!bad) return {};
  Report report;
  for (int64_t p = 0; p < count; ++p) {
    if (ids[p] >= -1 && ids[p] < s.genes) continue;
    if (report.count == 0) report = {1, p / s.tokens, p % s.tokens, ids[p], 0, 0};
    ++report.count;
  }
  return report;
}

KN_INLINE Report check_ids(const EmbedShape& s) {
  return s.wide_ids ? check_listed(static_cast<const int64_t*>(s.gene_ids), s)
                    : check_listed(static_cast<const int32_t*>(s.gene_ids), s);
}

// Tokens [begin, end), counted over all cells with their CLS tokens.
template <typename T>
KN_INLINE void write_tokens(const EmbedForward<T>& in, int64_t begin, int64_t end) {
  const EmbedShape& s = in.shape;
  const int64_t length = s.tokens + s.with_cls, width = s.width;
  int64_t b = begin / length, k = begin % length - s.with_cls;
  for (int64_t t = begin; t < end; ++t) {
    T* __restrict__ out = in.out + t * width;
    const int64_t position = b * s.tokens + k;
    const int64_t gene = k < 0 ? -1 : id_at(s, position);
    if (k >= 0 && k + kAhead < s.tokens) {
      const int64_t next = id_at(s, position + kAhead);
      if (next >= 0) prefetch_row(in.table + next * in.table_stride, width);
    }
    if (k < 0) {
      std::memcpy(out, in.cls, width * sizeof(T));
    } else if (gene < 0) {
      std::memset(out, 0, width * sizeof(T));
    } else if (s.concat) {
      const T* row = in.table + gene * in.table_stride;
      for (int64_t h = 0; h < width; ++h) out[h] = row[h];
      out[width - 1] = in.values[position];
    } else {
      const T* row = in.table + gene * in.table_stride;
      const T* v = in.values + b * in.cell_stride + k * in.token_stride;
      for (int64_t h = 0; h < width; ++h) narrow(widen(row[h]) + widen(v[h]), out[h]);
    }
    if (++k == s.tokens) {
      k = -static_cast<int64_t>(s.with_cls);
      ++b;
    }
  }
}

// ---- backward -------------------------------------------------------------------------------

struct Position {
  int32_t cell, token;
};

// The positions of gene j are order[starts[j]] … order[starts[j + 1] − 1], ascending. Padding, and
// whatever is no gene, stands behind the last gene.
struct Order {
  Scratch<int64_t> starts;  // [genes + 2]
  Scratch<Position> order;  // [cells · tokens]
};

Order sort_positions(const EmbedShape& s) {
  const int64_t count = s.cells * s.tokens;
  Order sorted;
  sorted.order.resize(count);
  // While positions are placed, cursor[j + 1] is where the next one of gene j goes.
  Scratch<int64_t>& cursor = sorted.starts;
  cursor.assign(s.genes + 3, 0);
  const auto bucket = [&s](int64_t position) {
    const int64_t id = id_at(s, position);
    return id < 0 || id >= s.genes ? s.genes : id;
  };
  for (int64_t p = 0; p < count; ++p) ++cursor[bucket(p) + 2];
  for (int64_t j = 2; j < s.genes + 3; ++j) cursor[j] += cursor[j - 1];
  int64_t p = 0;
  for (int64_t b = 0; b < s.cells; ++b)
    for (int64_t k = 0; k < s.tokens; ++k)
      sorted.order[cursor[bucket(p++) + 1]++] = {static_cast<int32_t>(b), static_cast<int32_t>(k)};
  return sorted;
}

// sum += rows[0] + rows[1] + …, one after the other.
template <int N, typename T>
KN_INLINE void add_rows(const T* const* rows, int64_t width, Wide<T>* __restrict__ sum) {
  const T* r[N];
  for (int n = 0; n < N; ++n) r[n] = rows[n];
  for (int64_t h = 0; h < width; ++h) {
    Wide<T> s = sum[h];
    for (int n = 0; n < N; ++n) s += widen(r[n][h]);
    sum[h] = s;
  }
}

// Genes [begin, end): their rows of dE, and dx or dv at their positions. `sum` [width] is scratch.
template <typename T>
KN_INLINE void sum_genes(const EmbedBackward<T>& g, const Order& sorted, int64_t begin, int64_t end,
                         Wide<T>* scratch) {
  const EmbedShape& s = g.shape;
  constexpr int64_t kGroup = 4;
  constexpr bool direct = std::is_same<T, Wide<T>>::value;
  const int64_t width = s.width, last = static_cast<int64_t>(sorted.order.size());
  const T* first_delta = g.delta + s.with_cls * g.token_stride;
  const auto delta_at = [&](Position p) {
    return first_delta + p.cell * g.cell_stride + p.token * g.token_stride;
  };
  for (int64_t j = begin; j < end; ++j) {
    const int64_t stop = sorted.starts[j + 1];
    Wide<T>* sum = scratch;
    if constexpr (direct) sum = g.grad_table + j * width;
    std::memset(sum, 0, width * sizeof(Wide<T>));
    for (int64_t i = sorted.starts[j]; i < stop; i += kGroup) {
      const int64_t n = std::min(kGroup, stop - i);
      const T* rows[kGroup];
      for (int64_t m = 0; m < n; ++m) {
        const Position p = sorted.order[i + m];
        rows[m] = delta_at(p);
        if (i + m + kAhead < last) prefetch_row(delta_at(sorted.order[i + m + kAhead]), width);
        if (g.grad_values == nullptr) continue;
        const int64_t position = p.cell * s.tokens + p.token;
        if (s.concat)
          g.grad_values[position] = rows[m][width - 1];
        else
          std::memcpy(g.grad_values + position * width, rows[m], width * sizeof(T));
      }
      if (n == 4) add_rows<4>(rows, width, sum);
      if (n == 3) add_rows<3>(rows, width, sum);
      if (n == 2) add_rows<2>(rows, width, sum);
      if (n == 1) add_rows<1>(rows, width, sum);
    }
    T* row = g.grad_table + j * width;
    if constexpr (!direct)
      for (int64_t h = 0; h < width; ++h) narrow(sum[h], row[h]);
    if (s.concat) std::memset(row + width - 1, 0, sizeof(T));
  }
}

template <typename T>
KN_INLINE void sum_cls(const EmbedBackward<T>& g, Wide<T>* sum) {
  const EmbedShape& s = g.shape;
  std::memset(sum, 0, s.width * sizeof(Wide<T>));
  for (int64_t b = 0; b < s.cells; ++b) {
    const T* row = g.delta + b * g.cell_stride;
    add_rows<1>(&row, s.width, sum);
  }
  for (int64_t h = 0; h < s.width; ++h) narrow(sum[h], g.grad_cls[h]);
}

template <typename T>
void clear_padding(const EmbedBackward<T>& g, const Order& sorted) {
  const EmbedShape& s = g.shape;
  const int64_t row = s.concat ? 1 : s.width;
  for (int64_t i = sorted.starts[s.genes]; i < sorted.starts[s.genes + 1]; ++i) {
    const Position p = sorted.order[i];
    std::memset(g.grad_values + (p.cell * s.tokens + p.token) * row, 0, row * sizeof(T));
  }
}

// dx or dv of one cell, where no gradient of the table is wanted.
template <typename T>
void copy_values(const EmbedBackward<T>& g, int64_t b) {
  const EmbedShape& s = g.shape;
  const int64_t row = s.concat ? 1 : s.width;
  for (int64_t k = 0; k < s.tokens; ++k) {
    const int64_t position = b * s.tokens + k, id = id_at(s, position);
    const T* delta = g.delta + b * g.cell_stride + (k + s.with_cls) * g.token_stride;
    T* out = g.grad_values + position * row;
    if (id < 0 || id >= s.genes)
      std::memset(out, 0, row * sizeof(T));
    else
      std::memcpy(out, delta + (s.concat ? s.width - 1 : 0), row * sizeof(T));
  }
}

int team_size(int threads, int64_t numbers, int64_t tasks) {
  return numbers < kSerialWork ? 1 : static_cast<int>(std::min<int64_t>(threads, tasks));
}

}  // namespace

template <typename T>
Report embed_tokens_forward(const EmbedForward<T>& in, int threads) {
  const EmbedShape& s = in.shape;
  const Report report = for_isa<check_ids>(s);
  if (report.count > 0) return report;
  const int64_t rows = s.cells * (s.tokens + s.with_cls);
  if (rows == 0) return report;
  prefer_huge_pages(in.out, rows * s.width * static_cast<int64_t>(sizeof(T)));
  const int team = team_size(threads, rows * s.width, rows);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t i = 0; i < team; ++i)
    for_isa<write_tokens<T>>(in, rows * i / team, rows * (i + 1) / team);
  return report;
}

template <typename T>
void embed_tokens_backward(const EmbedBackward<T>& g, int threads) {
  const EmbedShape& s = g.shape;
  if (g.grad_cls != nullptr) {
    Scratch<Wide<T>> sum(s.width);
    for_isa<sum_cls<T>>(g, sum.data());
  }
  if (g.grad_table == nullptr && g.grad_values == nullptr) return;
  if (g.grad_values != nullptr && !s.concat)
    prefer_huge_pages(g.grad_values,
                      s.cells * s.tokens * s.width * static_cast<int64_t>(sizeof(T)));
  if (g.grad_table == nullptr) {  // nothing that is as long as the table
    const int team = team_size(threads, s.cells * s.tokens * (s.concat ? 1 : s.width), s.cells);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int64_t b = 0; b < s.cells; ++b) copy_values(g, b);
    return;
  }
  prefer_huge_pages(g.grad_table, s.genes * s.width * static_cast<int64_t>(sizeof(T)));
  const Order sorted = sort_positions(s);
  if (g.grad_values != nullptr) clear_padding(g, sorted);
  const int64_t blocks = (s.genes + kGeneBlock - 1) / kGeneBlock;
  if (blocks == 0) return;
  const int team = team_size(threads, (s.genes + s.cells * s.tokens) * s.width, blocks);
  Rescue rescue;
#pragma omp parallel num_threads(team) if (team > 1)
  {
    Scratch<Wide<T>> scratch;
    rescue.run([&] { scratch.resize(s.width); });
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < blocks; ++i)
      rescue.run([&] {
        for_isa<sum_genes<T>>(g, sorted, i * kGeneBlock, std::min(s.genes, (i + 1) * kGeneBlock),
                              scratch.data());
      });
  }
  rescue.rethrow();
}

#define KN_INSTANTIATE(T)                                               \
  template Report embed_tokens_forward<T>(const EmbedForward<T>&, int); \
  template void embed_tokens_backward<T>(const EmbedBackward<T>&, int);

KN_INSTANTIATE(float)
KN_INSTANTIATE(double)
KN_INSTANTIATE(BFloat16)
KN_INSTANTIATE(Half)

}  // namespace kernomics
