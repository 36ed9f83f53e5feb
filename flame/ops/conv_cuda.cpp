#include "flame/device/cuda.h"
#include "flame/ops/conv_gemm_cuda.h"
#include "flame/ops/cudnn_graphs_cuda.h"
#include "flame/ops/layout.h"

namespace flame::cuda {
namespace {

using cudnn::Pass;

constexpr int64_t alignment = 16;  // what cuDNN's loads want of addresses and of a pixel's channels, in bytes

int64_t rounded_up(int64_t channels, DType dtype) {
  const int64_t step = alignment / static_cast<int64_t>(size_of(dtype));
  return (channels + step - 1) / step * step;
}

// The convolution with as many more channels as cuDNN's loads want; groups stay as they are.
Convolution widened(const Convolution& conv, DType dtype) {
  Convolution wide = conv;
  if (conv.groups() > 1) return wide;
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
// Channels of groups cannot be padded.
bool cudnn_fits(const Convolution& conv, const Tensor& result) {
  const DType dtype = result.dtype();
  if (dtype == DType::f32 && !tf32()) return false;
  const Convolution group = conv.of_group();
  return conv.groups() == 1 ||
         (rounded_up(group.x[3], dtype) == group.x[3] && rounded_up(group.weight[0], dtype) == group.weight[0]);
}

// x's channels of a group, together.
Tensor channels(const Tensor& x, int64_t group, int64_t groups) {
  const int64_t count = x.dim(3) / groups;
  return narrow(x.detach(), 3, group * count, count);
}

Tensor rows_of(const Tensor& x, int64_t group, int64_t groups) {
  const int64_t count = x.defined() ? x.dim(0) / groups : 0;
  return x.defined() ? x.rows(group * count, count) : x;
}

// The plain form of a convolution with groups: each by itself. f(convolution, group, its result).
template <class F>
void group_by_group(const Convolution& conv, const Shape& part, const Tensor& result, const F& f) {
  std::vector<Tensor> parts;
  for (int64_t group = 0; group < conv.groups(); ++group) {
    parts.push_back(Tensor::empty(part, result.dtype(), result.device()));
    f(conv.of_group(), group, parts.back());
  }
  result.copy_from(concat(parts, 3));
}

}  // namespace

void conv2d(const Convolution& conv, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  if (y.numel() == 0) return;
  if (cudnn_fits(conv, y)) {
    const Convolution wide = widened(conv, y.dtype());
    const Tensor from = input(x, wide.x), factors = input(weight, wide.weight), to = place_for(y, wide.result());
    const Tensor offset = bias.defined() ? input(bias, {wide.weight[0]}) : bias;
    const auto& refusal = cudnn::convolution(y.device(), Pass::forward, wide, y.dtype(), from.raw(), factors.raw(),
                                             offset.defined() ? offset.raw() : nullptr, to.raw());
    if (refusal.empty()) return finish(to, y);
  }
  const int64_t groups = conv.groups();
  if (groups == 1) return conv2d_by_gemm(conv, x, weight, bias, y);
  group_by_group(conv, conv.of_group().result(), y, [&](const Convolution& one, int64_t group, const Tensor& part) {
    conv2d(one, channels(x, group, groups), rows_of(weight, group, groups), rows_of(bias, group, groups), part);
  });
}

void conv2d_input_gradient(const Convolution& conv, const Tensor& dy, const Tensor& weight, const Tensor& dx) {
  if (dx.numel() == 0) return;
  if (dy.numel() == 0) return dx.fill(0);
  if (cudnn_fits(conv, dx)) {
    const Convolution wide = widened(conv, dx.dtype());
    const Tensor from = input(dy, wide.result()), factors = input(weight, wide.weight), to = place_for(dx, wide.x);
    const auto& refusal = cudnn::convolution(dx.device(), Pass::input_gradient, wide, dx.dtype(), to.raw(),
                                             factors.raw(), nullptr, from.raw());
    if (refusal.empty()) return finish(to, dx);
  }
  const int64_t groups = conv.groups();
  if (groups == 1) return conv2d_input_gradient_by_gemm(conv, dy, weight, dx);
  group_by_group(conv, conv.of_group().x, dx, [&](const Convolution& one, int64_t group, const Tensor& part) {
    conv2d_input_gradient(one, channels(dy, group, groups), rows_of(weight, group, groups), part);
  });
}

void conv2d_weight_gradient(const Convolution& conv, const Tensor& x, const Tensor& dy, const Tensor& dw) {
  if (dw.numel() == 0) return;
  if (dy.numel() == 0) return dw.fill(0);
  if (cudnn_fits(conv, dw)) {
    const Convolution wide = widened(conv, dw.dtype());
    const Tensor source = input(x, wide.x), from = input(dy, wide.result()), to = place_for(dw, wide.weight);
    const auto& refusal = cudnn::convolution(dw.device(), Pass::weight_gradient, wide, dw.dtype(), source.raw(),
                                             to.raw(), nullptr, from.raw());
    if (refusal.empty()) return finish(to, dw);
  }
  const int64_t groups = conv.groups();
  if (groups == 1) return conv2d_weight_gradient_by_gemm(conv, x, dy, dw);
  for (int64_t group = 0; group < groups; ++group)
    conv2d_weight_gradient(conv.of_group(), channels(x, group, groups), channels(dy, group, groups),
                           rows_of(dw, group, groups));
}

}  // namespace flame::cuda
