// Sums of counts, or of their logarithms, for each gene of each class of cells.
#include "gene_sums.h"

#include <array>
#include <cmath>

namespace kernomics {

namespace {

constexpr int kTable = 1024;  // most counts are smaller, and their logarithms are looked up

const std::array<double, kTable>& logs() {
  static const std::array<double, kTable> table = [] {
    std::array<double, kTable> found{};
    for (int i = 0; i < kTable; ++i) found[static_cast<size_t>(i)] = std::log1p(i);
    return found;
  }();
  return table;
}

double log_of(float value, const double* table) {
  if (value >= 0 && value < kTable) {
    const int whole = static_cast<int>(value);
    if (static_cast<float>(whole) == value) return table[whole];
  }
  return std::log1p(static_cast<double>(value));
}

template <bool kLog>
void add_rows(const GeneSums& p) {
  const double* table = logs().data();
  for (int64_t r = 0; r < p.rows; ++r) {
    if (p.classes[r] < 0) continue;
    double* sums = p.sums + 3 * p.genes * p.classes[r];
    const double weight = p.weights ? p.weights[r] : 1;
    for (int64_t i = p.indptr[r]; i < p.indptr[r + 1]; ++i) {
      const double x = kLog ? log_of(p.values[i], table) : static_cast<double>(p.values[i]);
      double* of_gene = sums + 3 * static_cast<int64_t>(p.indices[i]);
      of_gene[0] += 1;
      of_gene[1] += weight * x;
      of_gene[2] += weight * x * x;
    }
  }
}

}  // namespace

void gene_sums(const GeneSums& params) {
  params.log ? add_rows<true>(params) : add_rows<false>(params);
}

}  // namespace kernomics
