#include "flame/ops/conv.h"

#include <algorithm>
#include <ostream>

#include "flame/autograd/tape.h"
#include "flame/ops/conv_kernels.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/on.h"
#include "flame/ops/reduce.h"

namespace flame {

std::ostream& operator<<(std::ostream& out, const Padding& padding) {
  const auto [top, left, bottom, right] = padding;
  if (padding == Padding(top)) return out << top;
  return out << "(" << top << ", " << left << ", " << bottom << ", " << right << ")";
}

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, int stride, Padding padding, int groups) {
  constexpr const char* op = "conv2d";
  require_same(op, x, weight);
  require(is_floating(x.dtype()), op, "expected a floating dtype, got ", x.dtype());
  require(x.rank() == 4 && weight.rank() == 4 && groups >= 1 && x.dim(3) == weight.dim(3) * groups &&
              weight.dim(0) % groups == 0,
          op, "input ", x.shape(), " does not fit weight ", weight.shape(), " in ", groups,
          " groups: expected [N, H, W, C] and [out, kh, kw, C / groups], out in multiples of groups");
  require(stride >= 1 && std::min({padding.top, padding.left, padding.bottom, padding.right}) >= 0, op,
          "expected stride >= 1 and padding >= 0, got ", stride, " and ", padding);
  if (bias.defined()) {
    require_same(op, x, bias);
    require(bias.shape() == Shape{weight.dim(0)}, op, "expected a bias [", weight.dim(0), "], got ", bias.shape());
  }
  const Convolution conv = {x.shape(), weight.shape(), stride, padding};
  require(conv.height() > 0 && conv.width() > 0, op, "kernel ", weight.shape(), " is larger than input ", x.shape(),
          " with padding ", padding);
  if (conv.is_linear()) return linear(x, reshape(weight, {weight.dim(0), weight.dim(3)}), bias);

  const Tensor y = Tensor::empty(conv.result(), x.dtype(), x.device());
  on<cpu::conv2d, cuda::conv2d>(x.device(), conv, x, weight, bias, y);
  return record(op, y, {x, weight, bias},
                [conv, dx_to = wants(x), dw_to = wants(weight), db_to = wants(bias), x = keep(x, weight),
                 weight = keep(weight, x)](const Tensor& dy, GradientMap& gradients) {
                  if (dx_to) {
                    const Tensor dx = Tensor::empty(conv.x, dy.dtype(), dy.device());
                    on<cpu::conv2d_input_gradient, cuda::conv2d_input_gradient>(dy.device(), conv, dy, weight, dx);
                    gradients.add(dx_to, dx);
                  }
                  if (dw_to) {
                    const Tensor dw = Tensor::empty(conv.weight, dy.dtype(), dy.device());
                    on<cpu::conv2d_weight_gradient, cuda::conv2d_weight_gradient>(dy.device(), conv, x, dy, dw);
                    gradients.add(dw_to, dw);
                  }
                  if (db_to) gradients.add(db_to, sum_to(dy, db_to->shape));
                });
}

}  // namespace flame
