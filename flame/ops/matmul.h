#pragma once

#include "flame/core/tensor.h"

namespace flame {

// [..., m, k] x [..., k, n] -> [..., m, n]; the leading extents broadcast.
Tensor matmul(const Tensor& a, const Tensor& b);

// x [..., in], weight [out, in] as in a checkpoint, bias [out] or none: x weight' + bias -> [..., out].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

// linear(x, weight, bias) + scale * (x down') up' in one op; down [rank, in], up [out, rank] (Hu et al., LoRA,
// arXiv:2106.09685). Nothing but the rank-wide product and x is kept.
Tensor lora_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& down, const Tensor& up,
                   float scale);

}  // namespace flame
