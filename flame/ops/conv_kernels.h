#pragma once

#include "flame/ops/conv.h"

namespace flame {

// The extents of one convolution: x [N, H, W, C], weight [out, kh, kw, C / groups].
struct Convolution {
  Shape x, weight;
  int stride;
  Padding padding;
  int64_t height() const { return (x[1] + padding.top + padding.bottom - weight[1]) / stride + 1; }
  int64_t width() const { return (x[2] + padding.left + padding.right - weight[2]) / stride + 1; }
  Shape result() const { return {x[0], height(), width(), weight[0]}; }
  int64_t groups() const { return weight[3] > 0 ? x[3] / weight[3] : 1; }
  // The convolution that each of the groups is.
  Convolution of_group() const { return {x.with(3, weight[3]), weight.with(0, weight[0] / groups()), stride, padding}; }
  bool is_linear() const {
    return groups() == 1 && weight[1] == 1 && weight[2] == 1 && stride == 1 && padding == Padding();
  }
};

// The last tensor is written; any floating dtype, the same for all.
namespace cpu {
void conv2d(const Convolution& conv, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y);
void conv2d_input_gradient(const Convolution& conv, const Tensor& dy, const Tensor& weight, const Tensor& dx);
void conv2d_weight_gradient(const Convolution& conv, const Tensor& x, const Tensor& dy, const Tensor& dw);
}  // namespace cpu

namespace cuda {
void conv2d(const Convolution& conv, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y);
void conv2d_input_gradient(const Convolution& conv, const Tensor& dy, const Tensor& weight, const Tensor& dx);
void conv2d_weight_gradient(const Convolution& conv, const Tensor& x, const Tensor& dy, const Tensor& dw);
}  // namespace cuda

}  // namespace flame
