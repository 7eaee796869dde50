// The Poisson loss of one logit z and its target rate y, and the derivative in z.
//
// The rate is λ = e^η with log-rate η = φ(z), or λ(z) itself; the loss is λ − y·η, or
// λ − y·log(λ + eps). Its derivative is φ'(z)·(λ − y), or λ'(z)·(1 − y/(λ + eps)). NaN logits give
// NaN: every selection is written so that NaN takes the branch that keeps it.
#pragma once

#include "host_device.h"
#include "math.h"

namespace kernomics {

enum Activation : int {
  kRectifiedTanh = 0,  // φ = α·relu(tanh(z/β)), α = log(L + 1), β = 4e
  kRelu = 1,           // φ = relu(z)
  kClampedRelu = 2,    // φ = min(relu(z), α)
  kExp = 3,            // φ = z
  kSoftplus = 4,       // λ = log(1 + e^z)
  kIdentity = 5,       // λ = z
};

// How y follows from what is stored.
enum TargetKind : int {
  kTargetLog1p = 0,   // y = e^x
  kTargetCounts = 1,  // y = 1 + c·L/library
  kTargetRate = 2,    // y itself
};

// The constants of a call.
template <typename T>
struct PoissonLaw {
  T alpha, minus_2_over_beta, four_alpha_over_beta, eps;
};

template <typename T>
inline PoissonLaw<T> poisson_law(double target_sum, double eps) {
  const double alpha = std::log1p(target_sum), beta = 4 * 2.718281828459045235;
  return {static_cast<T>(alpha), static_cast<T>(-2 / beta), static_cast<T>(4 * alpha / beta),
          static_cast<T>(eps)};
}

// The first half: η (or λ for softplus and identity) and its slope in z.
template <int A, typename T>
KN_HD void poisson_rate(T z, const PoissonLaw<T>& law, T* rate, T* slope) {
  const T one = 1, none = 0, positive = z <= none ? none : z;
  if constexpr (A == kRectifiedTanh) {
    // With m = e^{−2z/β} − 1, tanh = −m/(2 + m) and sech² = 4(1 + m)/(2 + m)².
    T e;
    const T m = expm1_nonpositive(positive * law.minus_2_over_beta, &e);
    const T inverse = one / (m + T(2));
    *rate = -law.alpha * (m * inverse);
    *slope = z <= none ? none : law.four_alpha_over_beta * e * inverse * inverse;
  } else if constexpr (A == kRelu) {
    *rate = positive;
    *slope = z <= none ? none : one;
  } else if constexpr (A == kClampedRelu) {
    *rate = positive > law.alpha ? law.alpha : positive;
    *slope = positive > law.alpha ? none : z <= none ? none : one;
  } else if constexpr (A == kSoftplus) {
    const T e = exp_nonpositive(z > none ? -z : z);
    *rate = log1p_unit(e) + positive;
    *slope = (z > none ? one : e) / (one + e);
  } else {
    *rate = z;
    *slope = one;
  }
}

// The second half.
template <int A, typename T>
KN_HD void poisson_loss(T rate, T slope, T y, const PoissonLaw<T>& law, T* loss, T* derivative) {
  if constexpr (A == kSoftplus || A == kIdentity) {
    const T guarded = rate + law.eps;
    *loss = rate - y * log_any(guarded);
    *derivative = slope * (T(1) - y / guarded);
  } else {
    const T expected = exp_any(rate);
    *loss = expected - rate * y;
    *derivative = slope * (expected - y);
  }
}

template <int A, typename T>
KN_HD void poisson_point(T z, T y, const PoissonLaw<T>& law, T* loss, T* derivative) {
  T rate, slope;
  poisson_rate<A>(z, law, &rate, &slope);
  poisson_loss<A>(rate, slope, y, law, loss, derivative);
}

// Stirling's approximation of log y! for y > 1, which torch adds with full=True.
template <typename T>
KN_HD T stirling(T y) {
  const T log_y = log_any(y);
  return y > T(1) ? y * log_y - y + T(0.5) * (log_y + T(1.8378770664093454836)) : T(0);
}

}  // namespace kernomics
