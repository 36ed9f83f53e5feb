#pragma once

#include "flame/core/tensor.h"

namespace flame {

Tensor mse_loss(const Tensor& prediction, const Tensor& target);  // mean of the squared difference, f32 []

// The mean of the squared difference over each sample (row of the first axis), times weights [N] (f32), averaged over
// the samples: f32 []. Diffusion's loss.
Tensor weighted_mse_loss(const Tensor& prediction, const Tensor& target, const Tensor& weights);

// Mean of d^2 / 2 where |d| <= delta and of delta (|d| - delta / 2) beyond, d being the difference: f32 [] (Huber,
// 1964, as torch.nn.functional.huber_loss).
Tensor huber_loss(const Tensor& prediction, const Tensor& target, float delta = 1);

// Mean of d^2 / (2 beta) where |d| < beta and of |d| - beta / 2 beyond; the mean of |d| for a beta of 0: f32 []
// (torch.nn.functional.smooth_l1_loss).
Tensor smooth_l1_loss(const Tensor& prediction, const Tensor& target, float beta = 1);

}  // namespace flame
