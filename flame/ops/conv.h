#pragma once

#include "flame/core/tensor.h"

namespace flame {

// x [N, H, W, C], weight [out, kh, kw, C], bias [out] or none -> [N, H', W', out] with
// H' = (H + 2 padding - kh) / stride + 1. Channels are last throughout the networks.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, int stride = 1, int padding = 0);

// The name of what conv2d would run for these operands on the CPU, forward or for x's gradient: ours or oneDNN's, of
// which one with "ref" in it is the thousand times slower reference code. For tests.
const char* conv2d_implementation(const Tensor& x, const Tensor& weight, int stride, int padding, bool backward);

}  // namespace flame
