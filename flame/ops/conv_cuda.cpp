#include "flame/device/cuda.h"
#include "flame/ops/conv_gemm_cuda.h"
#include "flame/ops/cudnn_graphs_cuda.h"

namespace flame::cuda {
namespace {

using cudnn::Pass;

constexpr int64_t alignment = 16;  // what cuDNN's loads want of addresses and of a pixel's channels, in bytes

int64_t rounded_up(int64_t channels, DType dtype) {
  const int64_t step = alignment / static_cast<int64_t>(size_of(dtype));
  return (channels + step - 1) / step * step;
}

// The convolution with as many more channels as cuDNN's loads want.
Convolution widened(const Convolution& conv, DType dtype) {
  Convolution wide = conv;
  wide.x = conv.x.with(3, rounded_up(conv.x[3], dtype));
  wide.weight = conv.weight.with(3, wide.x[3]).with(0, rounded_up(conv.weight[0], dtype));
  return wide;
}

// A place for an operand of `shape`: x itself where that will do.
Tensor place_for(const Tensor& x, const Shape& shape) {
  const bool fits = x.shape() == shape && reinterpret_cast<uintptr_t>(x.raw()) % alignment == 0;
  return fits ? x : Tensor::empty(shape, x.dtype(), x.device());
}

Tensor input(const Tensor& x, const Shape& shape) {
  const Tensor place = place_for(x, shape);
  if (place.raw() != x.raw()) fit_matrix(x, place);
  return place;
}

void finish(const Tensor& place, const Tensor& result) {
  if (place.raw() != result.raw()) fit_matrix(place, result);
}

// Whether cuDNN may be asked: its f32 kernels that do not round to TF32 want another layout, and copy all to get it.
bool cudnn_fits(const Tensor& result) { return result.dtype() != DType::f32 || tf32(); }

}  // namespace

void conv2d(const Convolution& conv, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  if (y.numel() == 0) return;
  if (cudnn_fits(y)) {
    const Convolution wide = widened(conv, y.dtype());
    const Tensor from = input(x, wide.x), factors = input(weight, wide.weight), to = place_for(y, wide.result());
    const Tensor offset = bias.defined() ? input(bias, {wide.weight[0]}) : bias;
    const auto& refusal = cudnn::convolution(y.device(), Pass::forward, wide, y.dtype(), from.raw(), factors.raw(),
                                             offset.defined() ? offset.raw() : nullptr, to.raw());
    if (refusal.empty()) return finish(to, y);
  }
  conv2d_by_gemm(conv, x, weight, bias, y);
}

void conv2d_input_gradient(const Convolution& conv, const Tensor& dy, const Tensor& weight, const Tensor& dx) {
  if (dx.numel() == 0) return;
  if (dy.numel() == 0) return dx.fill(0);
  if (cudnn_fits(dx)) {
    const Convolution wide = widened(conv, dx.dtype());
    const Tensor from = input(dy, wide.result()), factors = input(weight, wide.weight), to = place_for(dx, wide.x);
    const auto& refusal = cudnn::convolution(dx.device(), Pass::input_gradient, wide, dx.dtype(), to.raw(),
                                             factors.raw(), nullptr, from.raw());
    if (refusal.empty()) return finish(to, dx);
  }
  conv2d_input_gradient_by_gemm(conv, dy, weight, dx);
}

void conv2d_weight_gradient(const Convolution& conv, const Tensor& x, const Tensor& dy, const Tensor& dw) {
  if (dw.numel() == 0) return;
  if (dy.numel() == 0) return dw.fill(0);
  if (cudnn_fits(dw)) {
    const Convolution wide = widened(conv, dw.dtype());
    const Tensor source = input(x, wide.x), from = input(dy, wide.result()), to = place_for(dw, wide.weight);
    const auto& refusal = cudnn::convolution(dw.device(), Pass::weight_gradient, wide, dw.dtype(), source.raw(),
                                             to.raw(), nullptr, from.raw());
    if (refusal.empty()) return finish(to, dw);
  }
  conv2d_weight_gradient_by_gemm(conv, x, dy, dw);
}

}  // namespace flame::cuda
