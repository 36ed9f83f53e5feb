#pragma once

#include "flame/core/tensor.h"

namespace flame {

// Zeros around a picture; one number: on every side.
struct Padding {
  int top, left, bottom, right;
  constexpr Padding(int all = 0) : Padding(all, all, all, all) {}
  constexpr Padding(int top, int left, int bottom, int right) : top(top), left(left), bottom(bottom), right(right) {}
  friend bool operator==(const Padding&, const Padding&) = default;
};
std::ostream& operator<<(std::ostream& out, const Padding& padding);

// x [N, H, W, C], weight [out, kh, kw, C / groups], bias [out] or none -> [N, H', W', out] with
// H' = (H + padding above and below - kh) / stride + 1. Channels are last throughout the networks. Of `groups` runs of
// channels, each is made of its own run of x's.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, int stride = 1, Padding padding = 0,
              int groups = 1);

// The name of what conv2d would run for these operands on the CPU, forward or for x's gradient: ours or oneDNN's, of
// which one with "ref" in it is the thousand times slower reference code. For tests.
const char* conv2d_implementation(const Tensor& x, const Tensor& weight, int stride, Padding padding, bool backward);

}  // namespace flame
