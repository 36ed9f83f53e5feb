#pragma once

#include <cmath>
#include <variant>

#include "flame/core/tensor.h"

namespace flame {

// What a difference d costs, and the derivative of that by d.
struct SquaredError {
  FLAME_SCALAR double cost(double d) const { return d * d; }
  FLAME_SCALAR float slope(float d) const { return 2 * d; }
};

struct HuberError {
  float delta;
  FLAME_SCALAR double cost(double d) const {
    const double size = std::fabs(d), edge = delta;
    return size <= edge ? 0.5 * d * d : edge * (size - 0.5 * edge);
  }
  FLAME_SCALAR float slope(float d) const { return d > delta ? delta : d < -delta ? -delta : d; }
};

struct SmoothL1Error {
  float beta;  // 0: the size of d
  FLAME_SCALAR double cost(double d) const {
    const double size = std::fabs(d), edge = beta;
    return size < edge ? 0.5 * d * d / edge : size - 0.5 * edge;
  }
  FLAME_SCALAR float slope(float d) const {
    if (std::fabs(d) < beta) return d / beta;
    return d > 0 ? 1.0f : d < 0 ? -1.0f : d;
  }
};

using ErrorRule = std::variant<SquaredError, HuberError, SmoothL1Error>;

}  // namespace flame

// weights: f32, one a sample (row of the first axis), or no tensor: one sample, all of weight 1.
namespace flame::cpu {
void mean_error(const ErrorRule& rule, const Tensor& prediction, const Tensor& target, const Tensor& weights,
                const Tensor& loss);
// dprediction = dloss * slope, dtarget = -dprediction; one that nobody wants is no tensor.
void mean_error_gradients(const ErrorRule& rule, const Tensor& dloss, const Tensor& prediction, const Tensor& target,
                          const Tensor& weights, const Tensor& dprediction, const Tensor& dtarget);
}  // namespace flame::cpu

namespace flame::cuda {
void mean_error(const ErrorRule& rule, const Tensor& prediction, const Tensor& target, const Tensor& weights,
                const Tensor& loss);
void mean_error_gradients(const ErrorRule& rule, const Tensor& dloss, const Tensor& prediction, const Tensor& target,
                          const Tensor& weights, const Tensor& dprediction, const Tensor& dtarget);
}  // namespace flame::cuda
