#include "eri/diffusion/uni_pc.h"

#include <algorithm>
#include <cmath>

#include "flame/ops/pointwise.h"

namespace eri {
namespace {

using flame::Tensor;
using Matrix = std::vector<std::vector<double>>;

constexpr size_t highest_order = 3;

// a y = b by Gaussian elimination with pivots; a is square, of 3 rows at most.
std::vector<double> solve(Matrix a, std::vector<double> b) {
  const size_t n = b.size();
  for (size_t column = 0; column < n; ++column) {
    const auto larger = [&](const auto& p, const auto& q) { return std::fabs(p[column]) < std::fabs(q[column]); };
    const auto pivot = std::max_element(a.begin() + static_cast<std::ptrdiff_t>(column), a.end(), larger) - a.begin();
    std::swap(a[column], a[pivot]);
    std::swap(b[column], b[pivot]);
    for (size_t row = 0; row < n; ++row) {
      if (row == column) continue;
      const double factor = a[row][column] / a[column][column];
      for (size_t k = column; k < n; ++k) a[row][k] -= factor * a[column][k];
      b[row] -= factor * b[column];
    }
  }
  for (size_t row = 0; row < n; ++row) b[row] /= a[row][row];
  return b;
}

// What the differences are weighted with, `ratios` being where they were taken, as parts of the step h: the equations
// of the paper's theorem 3.1, for its first ratios.size() orders.
std::vector<double> weights(const std::vector<double>& ratios, double h, double b_h) {
  Matrix powers;
  std::vector<double> right;
  double phi = std::expm1(-h) / -h - 1, factorial = 1;
  for (size_t i = 0; i < ratios.size(); ++i) {
    auto& row = powers.emplace_back();
    for (double ratio : ratios) row.push_back(std::pow(ratio, static_cast<double>(i)));
    right.push_back(phi * factorial / b_h);
    factorial *= static_cast<double>(i + 2);
    phi = phi / -h - 1 / factorial;
  }
  return solve(powers, right);
}

}  // namespace

UniPC::UniPC(Variant variant, const std::vector<double>& sigmas) : variant_(variant), sigmas_(sigmas) {
  constexpr double last = 0.001;
  if (sigmas_.back() == 0) sigmas_.back() = last;
}

Tensor UniPC::step(const Tensor& x, const Tensor& denoised) {
  x_ = index_ == 0 ? x : advance(sigmas_[index_], order(index_), denoised);
  points_.push_back({sigmas_[index_], denoised});
  if (points_.size() > highest_order) points_.erase(points_.begin());
  ++index_;
  return advance(sigmas_[index_], order(index_), {});
}

// It rises with the points that there are and falls towards the end.
int UniPC::order(size_t index) const {
  const size_t steps = sigmas_.size() - 1, highest = std::clamp<size_t>(steps - 1, 1, highest_order);
  return static_cast<int>(std::min({highest, index, steps + 1 - index}));
}

Tensor UniPC::advance(double next, int order, const Tensor& estimate_there) const {
  const auto& [sigma, denoised] = points_.back();
  const double h = std::log(sigma / next), down = std::expm1(-h);
  const double b_h = variant_ == Variant::bh1 ? -h : down;
  std::vector<double> ratios;
  std::vector<Tensor> differences;
  for (int k = 1; k < order; ++k) {
    const Point& point = points_[points_.size() - 1 - static_cast<size_t>(k)];
    ratios.push_back(std::log(sigma / point.sigma) / h);
    differences.push_back((point.denoised - denoised) * static_cast<float>(1 / ratios.back()));
  }
  if (estimate_there.defined()) {
    ratios.push_back(1);
    differences.push_back(estimate_there - denoised);
  }
  // With one difference the paper takes this in place of the solution.
  const std::vector<double> factors = ratios.size() == 1 ? std::vector{0.5}
                                      : ratios.empty()   ? std::vector<double>()
                                                         : weights(ratios, h, b_h);
  Tensor x = x_ * static_cast<float>(next / sigma) - denoised * static_cast<float>(down);
  for (size_t k = 0; k < differences.size(); ++k) x = x - differences[k] * static_cast<float>(b_h * factors[k]);
  return x;
}

}  // namespace eri
