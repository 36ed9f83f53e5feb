#pragma once

#include <bit>
#include <cmath>

#include "flame/core/dtype.h"

// Functions of one float without branches or calls, so that loops over them use the vector unit. The polynomials are
// minimax fits (weighted least squares, reweighted) of the functions named; the errors are those that tests measure
// against double precision.
namespace flame {

// Relative error below 2e-7; 0 below -104, infinity above 88.73; NaN stays NaN.
FLAME_SCALAR float fast_exp(float x) {
  const float bounded = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
  const float n = std::rint(bounded * 1.44269504f);
  float r = std::fma(n, -0.693359375f, bounded);  // ln 2 in two parts
  r = std::fma(n, 2.12194440e-4f, r);
  float p = std::fma(1.3941148e-3f, r, 8.3631966e-3f);  // (e^r - 1 - r) / r^2
  p = std::fma(p, r, 4.16663736e-2f);
  p = std::fma(p, r, 1.66665763e-1f);
  p = std::fma(p, r, 0.5f);
  p = std::fma(p * r, r, r) + 1.0f;
  const int whole = static_cast<int>(n), half = whole >> 1;  // 2^n in two factors: n may pass either end of float's
  return p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((whole - half + 127) << 23);
}

// Absolute error below 1.2e-7, relative error below 3e-7.
FLAME_SCALAR float fast_erf(float x) {
  const float t = std::fabs(x) < 4.1f ? std::fabs(x) : 4.1f, s = t * t;
  float small = std::fma(7.8891193e-5f, s, -8.0208411e-4f);  // erf(x) / x - 1 in x^2, to 1
  small = std::fma(small, s, 5.1895352e-3f);
  small = std::fma(small, s, -2.6854444e-2f);
  small = std::fma(small, s, 1.12836003e-1f);
  small = std::fma(small, s, -3.7612626e-1f);
  small = std::fma(small, s, 1.28379166e-1f);
  float large = std::fma(-1.86071702e-6f, t, 3.01978525e-5f);  // -log(erfc(t)) / t, from 1 to 4.1
  large = std::fma(large, t, -1.91806466e-4f);
  large = std::fma(large, t, 4.2188013e-4f);
  large = std::fma(large, t, 2.00403249e-3f);
  large = std::fma(large, t, -2.1538997e-2f);
  large = std::fma(large, t, 1.04414709e-1f);
  large = std::fma(large, t, 6.35978341e-1f);
  large = std::fma(large, t, 1.12848902f);
  const float magnitude = t < 1.0f ? std::fma(small, t, t) : 1.0f - fast_exp(-t * large);
  return x != x ? x : std::copysign(magnitude, x);
}

FLAME_SCALAR float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

// Relative error below 3e-7.
FLAME_SCALAR float fast_tanh(float x) {
  const float t = std::fabs(x), s = t * t;
  float small = std::fma(-6.1127786e-3f, s, 2.10098010e-2f);  // (tanh(x) / x - 1) / x^2 in x^2, to 0.625
  small = std::fma(small, s, -5.3854011e-2f);
  small = std::fma(small, s, 1.33327946e-1f);
  small = std::fma(small, s, -3.33333284e-1f);
  const float large = 1.0f - 2.0f / (fast_exp(2.0f * t) + 1.0f);
  return x != x ? x : std::copysign(t < 0.625f ? std::fma(small * s, t, t) : large, x);
}

}  // namespace flame
