#pragma once

#include "flame/core/tensor.h"

namespace flame {

Tensor mse_loss(const Tensor& prediction, const Tensor& target);  // mean of the squared difference, f32 []

// The mean of the squared difference over each sample (row of the first axis), times weights [N] (f32), averaged over
// the samples: f32 []. Diffusion's loss.
Tensor weighted_mse_loss(const Tensor& prediction, const Tensor& target, const Tensor& weights);

}  // namespace flame
