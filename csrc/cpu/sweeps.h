// Vectorised passes over one row of genes, compiled per instruction set. Sums run in 16 lanes over
// blocks of 1,024 genes, and the blocks are added in double: a fixed order on every machine.
#pragma once

#include <cstdint>

namespace kernomics {

// out_j = exp(min(y_j − top, 0) / tau); 0 for forbidden genes (−inf).
void exp_below(const float* y, int64_t n, float top, double tau, float* out);
void exp_below(const double* y, int64_t n, double top, double tau, double* out);

// One pass of SoftSort over the genes that are not among the winners: e_j = exp((y_j − top)/tau)
// for y_j < top, 0 for the others; the sums of e and e·u; how many y_j equal top.
struct OutsiderSums {
  double e, eu;
  int64_t at_top;
};
OutsiderSums outsiders(const float* y, const float* u, int64_t n, float top, double tau, float* e);
OutsiderSums outsiders(const double* y, const double* u, int64_t n, double top, double tau,
                       double* e);

bool all_finite(const float* x, int64_t n);
bool all_finite(const double* x, int64_t n);

double sum(const float* x, int64_t n);
double sum(const double* x, int64_t n);

double dot(const float* x, const float* u, int64_t n);
double dot(const double* x, const double* u, int64_t n);

// out_j = e_j·(u_j·slope − offset)
void affine_times(const float* e, const float* u, int64_t n, double slope, double offset,
                  float* out);
void affine_times(const double* e, const double* u, int64_t n, double slope, double offset,
                  double* out);

}  // namespace kernomics
