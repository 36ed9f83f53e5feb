#pragma once

#include "flame/core/tensor.h"

namespace flame {

// Over the last axis, with a gain and bias of its size (Ba et al., arXiv:1607.06450).
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps);

// x / sqrt(mean(x^2) + eps) over the last axis, with a gain of its size (Zhang and Sennrich, arXiv:1910.07467).
Tensor rms_norm(const Tensor& x, const Tensor& weight, float eps);

// x [N, ..., C]: mean and variance over each of `groups` runs of C / groups channels and all positions of a sample
// (Wu and He, arXiv:1803.08494).
Tensor group_norm(const Tensor& x, int groups, const Tensor& weight, const Tensor& bias, float eps);

// silu(group_norm(...)) in one pass.
Tensor group_norm_silu(const Tensor& x, int groups, const Tensor& weight, const Tensor& bias, float eps);

// x [..., 2C] = (h, gate) -> h * gelu(gate) [..., C], gelu exact (Shazeer, arXiv:2002.05202).
Tensor geglu(const Tensor& x);

}  // namespace flame
