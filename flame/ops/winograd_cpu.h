#pragma once

#include "flame/ops/conv_kernels.h"

// 3x3 convolutions of stride 1 in a quarter of the multiplications: F(4x4, 3x3) of Lavin and Gray, "Fast algorithms for
// convolutional neural networks" (arXiv:1509.09308), with the points 0, 2/3, -2/3, 3/2, -3/2 and infinity, whose
// rounding errors are about five times those of the plain sum.
namespace flame::cpu::winograd {

// Whether it pays. The transformed weight is four times the weight's size: too much for the largest layers and for few
// pixels.
bool pays(const Convolution& conv);

// An f32 weight [out, 3, 3, in] as [36, in, out]; for the input's gradient as [36, out, in].
Tensor transform(const Tensor& weight, bool gradient);

// y [N, H', W', out] = x [N, H, W, in] convolved with the transformed weight, after `top` rows and `left` columns of
// zeros, plus bias [out] or none; all f32.
void convolve(const Tensor& x, const Tensor& transformed, const Tensor& bias, int top, int left, const Tensor& y);

}  // namespace flame::cpu::winograd
