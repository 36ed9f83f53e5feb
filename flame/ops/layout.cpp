#include "flame/ops/layout.h"

#include <algorithm>

#include "flame/autograd/tape.h"
#include "flame/ops/layout_kernels.h"
#include "flame/ops/on.h"
#include "flame/ops/reduce.h"

namespace flame {
namespace {

// `axis` as 0 .. rank - 1.
int checked_axis(Op op, const Tensor& x, int axis) {
  require(x.defined(), op, "expected a tensor, got none");
  require(axis >= -x.rank() && axis < x.rank(), op, "axis ", axis, " of shape ", x.shape());
  return x.shape().axis(axis);
}

int64_t inner(const Tensor& x, int axis) { return x.shape().numel(axis + 1, x.rank()); }
int64_t outer(const Tensor& x, int axis) { return x.shape().numel(0, axis); }

void copy_runs(const Tensor& from, const Tensor& to, const Runs& runs) {
  on<cpu::copy_runs, cuda::copy_runs>(to.device(), from, to, runs);
}

Tensor narrowed(const Tensor& x, int axis, int64_t begin, int64_t count) {
  if (axis == 0) return x.rows(begin, count);
  const Tensor y = Tensor::empty(x.shape().with(axis, count), x.dtype(), x.device());
  const int64_t run = inner(x, axis);
  copy_runs(x, y, {outer(x, axis), count * run, begin * run, x.dim(axis) * run, 0, count * run});
  return y;
}

Tensor padded(const Tensor& x, int axis, int64_t before, int64_t after, float value) {
  const int64_t count = before + x.dim(axis) + after, runs = outer(x, axis), run = inner(x, axis);
  const Tensor y = Tensor::empty(x.shape().with(axis, count), x.dtype(), x.device());
  const auto fill = [&](int64_t begin, int64_t length) {
    const Runs border = {.count = runs, .length = length * run, .to = begin * run, .to_stride = count * run};
    on<cpu::fill_runs, cuda::fill_runs>(y.device(), y, border, value);
  };
  if (before) fill(0, before);
  if (after) fill(count - after, after);
  const int64_t length = x.dim(axis) * run;
  copy_runs(x, y, {runs, length, 0, length, before * run, count * run});
  return y;
}

Tensor casted(const Tensor& x, DType dtype) {
  const Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  on<cpu::cast, cuda::cast>(x.device(), x, y);
  return y;
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  require(x.defined(), "reshape", "expected a tensor, got none");
  return record("reshape", x.view(shape), {x},
                [dx_to = wants(x), from = x.shape()](const Tensor& dy, GradientMap& gradients) {
                  gradients.add(dx_to, dy.view(from));
                });
}

Tensor permute(const Tensor& x, const std::vector<int>& axes) {
  require(x.defined() && static_cast<int>(axes.size()) == x.rank(), "permute", "expected ", x.rank(), " axes, got ",
          axes.size());
  std::vector<int> forward, inverse(axes.size(), -1);
  Shape shape = x.shape();
  for (int i = 0; i < x.rank(); ++i) {
    forward.push_back(checked_axis("permute", x, axes[i]));
    require(inverse[forward[i]] < 0, "permute", "axis ", axes[i], " comes twice");
    inverse[forward[i]] = i;
    shape = shape.with(i, x.shape()[forward[i]]);
  }
  const Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  on<cpu::permute, cuda::permute>(x.device(), x, y, forward);
  return record("permute", y, {x}, [dx_to = wants(x), inverse](const Tensor& dy, GradientMap& gradients) {
    gradients.add(dx_to, permute(dy, inverse));
  });
}

Tensor narrow(const Tensor& x, int axis, int64_t begin, int64_t count) {
  axis = checked_axis("narrow", x, axis);
  const int64_t extent = x.dim(axis);
  require(begin >= 0 && count >= 0 && begin + count <= extent, "narrow", "[", begin, ", ", begin + count, ") of axis ",
          axis, " of shape ", x.shape());
  return record("narrow", narrowed(x, axis, begin, count), {x},
                [dx_to = wants(x), axis, begin, after = extent - begin - count](const Tensor& dy, GradientMap& grads) {
                  grads.add(dx_to, padded(dy, axis, begin, after, 0));
                });
}

Tensor concat(const std::vector<Tensor>& parts, int axis) {
  require(!parts.empty(), "concat", "expected at least one part");
  axis = checked_axis("concat", parts[0], axis);
  int64_t total = 0;
  for (const Tensor& part : parts) {
    require_same("concat", parts[0], part);
    require(part.rank() == parts[0].rank() && part.shape().with(axis, 0) == parts[0].shape().with(axis, 0), "concat",
            "shapes ", parts[0].shape(), " and ", part.shape(), " differ in more than axis ", axis);
    total += part.dim(axis);
  }
  const Tensor y = Tensor::empty(parts[0].shape().with(axis, total), parts[0].dtype(), parts[0].device());
  const int64_t run = inner(y, axis);
  int64_t begin = 0;
  std::vector<SlotPtr> to;
  std::vector<int64_t> counts;
  for (const Tensor& part : parts) {
    const int64_t count = part.dim(axis);
    copy_runs(part, y, {outer(y, axis), count * run, 0, count * run, begin * run, total * run});
    begin += count;
    to.push_back(wants(part));
    counts.push_back(count);
  }
  return record("concat", y, parts, [to, counts, axis](const Tensor& dy, GradientMap& gradients) {
    int64_t at = 0;
    for (size_t i = 0; i < to.size(); at += counts[i++]) {
      if (to[i]) gradients.add(to[i], narrowed(dy, axis, at, counts[i]));
    }
  });
}

Tensor stack(const std::vector<Tensor>& parts, int axis) {
  require(!parts.empty() && parts[0].defined(), "stack", "expected at least one part");
  const int rank = parts[0].rank();
  require(axis >= -rank - 1 && axis <= rank, "stack", "axis ", axis, " of a result of rank ", rank + 1);
  if (axis < 0) axis += rank + 1;
  std::vector<Tensor> thin;
  for (const Tensor& part : parts) {
    require_same("stack", parts[0], part);
    require(part.shape() == parts[0].shape(), "stack", "shapes ", parts[0].shape(), " and ", part.shape(), " differ");
    thin.push_back(reshape(part, part.shape().inserted(axis, 1)));
  }
  return concat(thin, axis);
}

Tensor repeat(const Tensor& x, int axis, int64_t times) {
  axis = checked_axis("repeat", x, axis);
  require(times >= 1, "repeat", "expected at least once, got ", times);
  const Tensor y = Tensor::empty(x.shape().with(axis, x.dim(axis) * times), x.dtype(), x.device());
  const int64_t count = outer(x, axis), run = x.dim(axis) * inner(x, axis);
  for (int64_t i = 0; i < times; ++i) copy_runs(x, y, {count, run, 0, run, i * run, times * run});
  return record("repeat", y, {x},
                [dx_to = wants(x), shape = x.shape(), count, times, run](const Tensor& dy, GradientMap& gradients) {
                  gradients.add(dx_to, sum(dy.view({count, times, run}), {1}).view(shape));
                });
}

Tensor upsample_nearest2x(const Tensor& x) {
  require(x.defined() && x.rank() == 4, "upsample_nearest2x", "expected [N, H, W, C], got ", x.shape());
  const Tensor y = Tensor::empty({x.dim(0), 2 * x.dim(1), 2 * x.dim(2), x.dim(3)}, x.dtype(), x.device());
  on<cpu::upsample, cuda::upsample>(x.device(), x, y);
  return record("upsample_nearest2x", y, {x},
                [dx_to = wants(x), shape = x.shape()](const Tensor& dy, GradientMap& gradients) {
                  const Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
                  on<cpu::sum_squares, cuda::sum_squares>(dy.device(), dy, dx);
                  gradients.add(dx_to, dx);
                });
}

Tensor pad(const Tensor& x, int axis, int64_t before, int64_t after, float value) {
  axis = checked_axis("pad", x, axis);
  require(before >= 0 && after >= 0, "pad", "expected no negative widths, got ", before, " and ", after);
  return record("pad", padded(x, axis, before, after, value), {x},
                [dx_to = wants(x), axis, before, count = x.dim(axis)](const Tensor& dy, GradientMap& gradients) {
                  gradients.add(dx_to, narrowed(dy, axis, before, count));
                });
}

Tensor cast(const Tensor& x, DType dtype) {
  require(x.defined(), "cast", "expected a tensor, got none");
  if (x.dtype() == dtype) return x;
  const Tensor y = casted(x, dtype);
  if (!is_floating(dtype)) return no_gradient("cast", y, {x});
  const Tensor result =
      record("cast", y, {x}, [dx_to = wants(x), from = x.dtype()](const Tensor& dy, GradientMap& gradients) {
        gradients.add(dx_to, cast(dy, from));
      });
  // What a parameter's gradient is added up from is not rounded to the dtype that it is used in.
  if (const SlotPtr& leaf = wants(x); leaf && leaf->epoch == 0 && size_of(leaf->dtype) > size_of(dtype))
    result.slot()->dtype = leaf->dtype;
  return result;
}

Tensor channels_last(const Tensor& x) {
  require(x.defined() && x.rank() == 4, "channels_last", "expected [N, C, H, W], got ", x.shape());
  return permute(x, {0, 2, 3, 1});
}

Tensor channels_first(const Tensor& x) {
  require(x.defined() && x.rank() == 4, "channels_first", "expected [N, H, W, C], got ", x.shape());
  return permute(x, {0, 3, 1, 2});
}

Tensor embedding(const Tensor& table, const Tensor& ids) {
  require(table.defined() && table.rank() == 2, "embedding", "expected a table [count, width], got ", table.shape());
  require(ids.defined() && (ids.dtype() == DType::i32 || ids.dtype() == DType::i64), "embedding",
          "expected ids of i32 or i64, got ", ids.dtype());
  require(ids.device() == table.device(), "embedding", "expected one device, got ", table.device(), " and ",
          ids.device());
  const Tensor y = Tensor::empty(ids.shape().inserted(ids.rank(), table.dim(1)), table.dtype(), table.device());
  on<cpu::gather_rows, cuda::gather_rows>(table.device(), table, ids, y);
  return record(
      "embedding", y, {table},
      [to = wants(table), ids = keep(ids, table), shape = table.shape()](const Tensor& dy, GradientMap& grads) {
        const Tensor gradient = Tensor::zeros(shape, DType::f32, dy.device());
        on<cpu::scatter_rows, cuda::scatter_rows>(dy.device(), dy, ids, gradient);
        grads.add(to, cast(gradient, dy.dtype()));
      });
}

Tensor Tensor::to(DType dtype) const { return cast(*this, dtype); }
Tensor Tensor::reshape(const Shape& shape) const { return flame::reshape(*this, shape); }
Tensor Tensor::permute(std::initializer_list<int> axes) const { return flame::permute(*this, std::vector<int>(axes)); }
Tensor Tensor::narrow(int axis, int64_t begin, int64_t count) const { return flame::narrow(*this, axis, begin, count); }

}  // namespace flame
