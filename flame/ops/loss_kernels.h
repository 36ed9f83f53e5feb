#pragma once

#include "flame/core/tensor.h"

// weights: f32, one a sample (row of the first axis), or no tensor: one sample, all of weight 1.
namespace flame::cpu {
void weighted_mse(const Tensor& prediction, const Tensor& target, const Tensor& weights, const Tensor& loss);
// dprediction = dloss * slope, dtarget = -dprediction; one that nobody wants is no tensor.
void weighted_mse_gradients(const Tensor& dloss, const Tensor& prediction, const Tensor& target, const Tensor& weights,
                            const Tensor& dprediction, const Tensor& dtarget);
}  // namespace flame::cpu

namespace flame::cuda {
void weighted_mse(const Tensor& prediction, const Tensor& target, const Tensor& weights, const Tensor& loss);
void weighted_mse_gradients(const Tensor& dloss, const Tensor& prediction, const Tensor& target, const Tensor& weights,
                            const Tensor& dprediction, const Tensor& dtarget);
}  // namespace flame::cuda
