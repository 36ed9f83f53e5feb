#include "flame/ops/reduce.h"

#include <array>

#include "flame/autograd/tape.h"
#include "flame/ops/on.h"
#include "flame/ops/reduce_kernels.h"

namespace flame {
namespace {

using Axes = std::array<bool, Shape::max_rank>;

Axes chosen(Op op, const Shape& shape, const std::vector<int>& axes) {
  Axes result = {};
  for (int axis : axes) {
    require(axis >= -shape.rank() && axis < shape.rank(), op, "axis ", axis, " of shape ", shape);
    bool& is_chosen = result[shape.axis(axis)];
    require(!is_chosen, op, "axis ", axis, " comes twice");
    is_chosen = true;
  }
  return result;
}

// The sums over neighbouring axes, last first: each leaves a dense tensor for the next.
std::vector<Middle> passes(const Shape& shape, const Axes& summed) {
  std::vector<Middle> result;
  int64_t inner = 1;
  for (int last = shape.rank(); last > 0;) {
    const bool is_summed = summed[last - 1];
    int first = last - 1;
    while (first > 0 && (summed[first - 1] == is_summed || shape[first - 1] == 1)) --first;
    const int64_t extent = shape.numel(first, last);
    if (!is_summed)
      inner *= extent;
    else if (extent != 1)
      result.push_back({shape.numel(0, first), extent, inner});
    last = first;
  }
  return result;
}

Shape without(const Shape& shape, const Axes& summed, bool keepdim) {
  Shape result = shape;
  for (int i = shape.rank() - 1; i >= 0; --i)
    if (summed[i]) result = keepdim ? result.with(i, 1) : result.without(i);
  return result;
}

// Between passes the sums are f32 whatever x is stored in.
Tensor reduced(const Tensor& x, const Axes& summed, const Shape& shape, double scale) {
  const std::vector<Middle> steps = passes(x.shape(), summed);
  if (steps.empty()) return x.view(shape);
  Tensor from = x;
  for (size_t i = 0; i < steps.size(); ++i) {
    const bool last = i + 1 == steps.size();
    const Tensor y = last ? Tensor::empty(shape, x.dtype(), x.device())
                          : Tensor::empty({steps[i].outer * steps[i].inner}, DType::f32, x.device());
    on<cpu::sum_middle, cuda::sum_middle>(x.device(), from, y, steps[i], last ? scale : 1);
    from = y;
  }
  return from;
}

// The other direction: every element of dy to all the places that were summed into it.
Tensor spread(const Tensor& dy, const Axes& summed, const Shape& shape, double scale) {
  const std::vector<Middle> steps = passes(shape, summed);
  if (steps.empty()) return dy.view(shape);
  Tensor from = dy;
  for (size_t i = steps.size(); i-- > 0;) {
    const Middle& m = steps[i];
    const Tensor x = i == 0 ? Tensor::empty(shape, dy.dtype(), dy.device())
                            : Tensor::empty({m.outer * m.count * m.inner}, DType::f32, dy.device());
    on<cpu::spread_middle, cuda::spread_middle>(dy.device(), from, x, m, i == 0 ? scale : 1);
    from = x;
  }
  return from;
}

Tensor reduce(const char* op, const Tensor& x, const std::vector<int>& axes, bool keepdim, bool averaged) {
  require(x.defined() && is_floating(x.dtype()), op, "expected a floating tensor, got ", x.dtype());
  const Axes summed = chosen(op, x.shape(), axes);
  const Shape shape = without(x.shape(), summed, keepdim);
  require(!averaged || x.numel() > 0, op, "of no elements: shape ", x.shape());
  const double scale = averaged ? static_cast<double>(shape.numel()) / static_cast<double>(x.numel()) : 1;
  return record(op, reduced(x, summed, shape, scale), {x},
                [dx_to = wants(x), shape = x.shape(), summed, scale](const Tensor& dy, GradientMap& gradients) {
                  gradients.add(dx_to, spread(dy, summed, shape, scale));
                });
}

std::vector<int> all_axes(const Tensor& x) {
  std::vector<int> axes(static_cast<size_t>(x.rank()));
  for (int i = 0; i < x.rank(); ++i) axes[i] = i;
  return axes;
}

}  // namespace

Tensor sum(const Tensor& x, const std::vector<int>& axes, bool keepdim) {
  return reduce("sum", x, axes, keepdim, false);
}
Tensor mean(const Tensor& x, const std::vector<int>& axes, bool keepdim) {
  return reduce("mean", x, axes, keepdim, true);
}
Tensor sum(const Tensor& x) { return sum(x, all_axes(x)); }
Tensor mean(const Tensor& x) { return mean(x, all_axes(x)); }
Tensor Tensor::sum() const { return flame::sum(*this); }
Tensor Tensor::mean() const { return flame::mean(*this); }

Tensor sum_to(const Tensor& x, const Shape& shape) {
  require(x.defined() && is_floating(x.dtype()), "sum_to", "expected a floating tensor, got ", x.dtype());
  if (x.shape() == shape) return x.detach();
  const int extra = x.rank() - shape.rank();
  require(extra >= 0 && broadcast(shape, x.shape(), "sum_to") == x.shape(), "sum_to", "shape ", shape,
          " was not broadcast to ", x.shape());
  Axes summed = {};
  for (int i = 0; i < x.rank(); ++i) summed[i] = i < extra || (shape[i - extra] == 1 && x.shape()[i] != 1);
  return reduced(x, summed, shape, 1);
}

}  // namespace flame
