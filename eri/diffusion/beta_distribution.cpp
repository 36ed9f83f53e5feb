#include "eri/diffusion/beta_distribution.h"

#include <cmath>
#include <utility>

namespace eri {
namespace {

// The continued fraction of the incomplete beta function by Lentz's method (Abramowitz and Stegun, 26.5.8): quick where
// x < (a + 1) / (a + b + 2).
double continued_fraction(double x, double a, double b) {
  constexpr double tiny = 1e-300;
  const auto not_zero = [](double value) { return std::fabs(value) < tiny ? tiny : value; };
  double numerator = 1, denominator = 1 / not_zero(1 - (a + b) * x / (a + 1)), fraction = denominator;
  const auto add = [&](double coefficient) {
    denominator = 1 / not_zero(1 + coefficient * denominator);
    numerator = not_zero(1 + coefficient / numerator);
    fraction *= numerator * denominator;
  };
  for (int m = 1; m < 1000; ++m) {
    const double before = fraction;
    add(m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)));
    add(-(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)));
    if (fraction == before) break;
  }
  return fraction;
}

double probability_below(double x, double a, double b) {
  if (x > (a + 1) / (a + b + 2)) return 1 - probability_below(1 - x, b, a);
  if (x <= 0) return 0;
  const double log_beta = std::lgamma(a) + std::lgamma(b) - std::lgamma(a + b);
  return std::exp(a * std::log(x) + b * std::log1p(-x) - log_beta) * continued_fraction(x, a, b) / a;
}

}  // namespace

double beta_quantile(double p, double a, double b) {
  if (p <= 0 || p >= 1) return p <= 0 ? 0 : 1;
  if (p == 0.5 && a == b) return 0.5;
  double low = 0, high = 1;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (probability_below(middle, a, b) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

}  // namespace eri
