#include "flame/ops/matmul.h"

#include "flame/autograd/tape.h"
#include "flame/ops/gemm.h"
#include "flame/ops/layout.h"
#include "flame/ops/on.h"
#include "flame/ops/reduce.h"

namespace flame {
namespace {

// All leading extents as one: [..., n] -> [rows, n].
Tensor flat(const Tensor& x) {
  const int64_t width = x.dim(-1);
  return x.view({x.shape().numel(0, x.rank() - 1), width});
}

void check_linear(Op op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  require_same(op, x, weight);
  require(is_floating(x.dtype()), op, "expected a floating dtype, got ", x.dtype());
  require(weight.rank() == 2, op, "expected a weight [out, in], got ", weight.shape());
  require(x.rank() >= 1 && x.dim(-1) == weight.dim(1), op, "input ", x.shape(), " does not fit weight ",
          weight.shape());
  if (!bias.defined()) return;
  require_same(op, x, bias);
  require(bias.shape() == Shape{weight.dim(0)}, op, "expected a bias [", weight.dim(0), "], got ", bias.shape());
}

// [rows, out] x [out, in] -> the gradient of linear's input, of shape `shape`.
Tensor linear_input_gradient(const Tensor& dy, const Tensor& weight, const Shape& shape) {
  const Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
  gemm(dy, weight, flat(dx));
  return dx;
}

// alpha a' b: the gradient of a weight, in the dtype that it is wanted in, from the rows of two activations.
Tensor outer_sum(const SlotPtr& to, const Tensor& a, const Tensor& b, float alpha = 1) {
  const Tensor result = Tensor::empty({a.dim(1), b.dim(1)}, to->dtype, a.device());
  gemm(a, b, result, {.transpose_a = true, .alpha = alpha});
  return result;
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  require_same("matmul", a, b);
  require(is_floating(a.dtype()), "matmul", "expected a floating dtype, got ", a.dtype());
  require(a.rank() >= 2 && b.rank() >= 2 && a.dim(-1) == b.dim(-2), "matmul", "shapes ", a.shape(), " and ", b.shape(),
          " do not fit: expected [..., m, k] and [..., k, n]");
  if (a.rank() > 2 && b.rank() == 2) {  // one tall product
    const Tensor y = matmul(reshape(a, flat(a).shape()), b);
    return reshape(y, a.shape().with(-1, b.dim(1)));
  }
  const auto batch = [](const Shape& shape) { return shape.without(-1).without(-1); };
  const auto matrices = [lead = broadcast(batch(a.shape()), batch(b.shape()), "matmul")](int64_t rows,
                                                                                         int64_t columns) {
    return lead.inserted(lead.rank(), rows).inserted(lead.rank() + 1, columns);
  };
  const Tensor y = Tensor::empty(matrices(a.dim(-2), b.dim(-1)), a.dtype(), a.device());
  gemm(a, b, y);
  return record(
      "matmul", y, {a, b},
      [matrices, a_shape = a.shape(), b_shape = b.shape(), da_to = wants(a), db_to = wants(b), a = keep(a, b),
       b = keep(b, a)](const Tensor& dy, GradientMap& gradients) {
        if (da_to) {
          const Tensor da = Tensor::empty(matrices(a_shape.dim(-2), a_shape.dim(-1)), dy.dtype(), dy.device());
          gemm(dy, b, da, {.transpose_b = true});
          gradients.add(da_to, sum_to(da, a_shape));
        }
        if (db_to) {
          const Tensor db = Tensor::empty(matrices(b_shape.dim(-2), b_shape.dim(-1)), dy.dtype(), dy.device());
          gemm(a, dy, db, {.transpose_a = true});
          gradients.add(db_to, sum_to(db, b_shape));
        }
      });
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_linear("linear", x, weight, bias);
  const Tensor y = Tensor::empty(x.shape().with(-1, weight.dim(0)), x.dtype(), x.device());
  gemm(flat(x), weight, flat(y), {.transpose_b = true}, bias);
  return record("linear", y, {x, weight, bias},
                [shape = x.shape(), dx_to = wants(x), dw_to = wants(weight), db_to = wants(bias), x = keep(x, weight),
                 weight = keep(weight, x)](const Tensor& dy, GradientMap& gradients) {
                  const Tensor rows = flat(dy);
                  if (dx_to) gradients.add(dx_to, linear_input_gradient(rows, weight, shape));
                  if (dw_to) gradients.add(dw_to, outer_sum(dw_to, rows, flat(x)));
                  if (db_to) gradients.add(db_to, sum_to(rows, db_to->shape));
                });
}

Tensor lora_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& down, const Tensor& up,
                   float scale) {
  constexpr const char* op = "lora_linear";
  check_linear(op, x, weight, bias);
  require_same(op, x, down);
  require_same(op, x, up);
  require(down.rank() == 2 && down.dim(1) == weight.dim(1), op, "expected down [rank, ", weight.dim(1), "], got ",
          down.shape());
  require(up.shape() == Shape{weight.dim(0), down.dim(0)}, op, "expected up [", weight.dim(0), ", ", down.dim(0),
          "], got ", up.shape());
  const Tensor y = Tensor::empty(x.shape().with(-1, weight.dim(0)), x.dtype(), x.device());
  const Tensor t = Tensor::empty({y.shape().numel(0, y.rank() - 1), down.dim(0)}, x.dtype(), x.device());
  gemm(flat(x), weight, flat(y), {.transpose_b = true}, bias);
  gemm(flat(x), down, t, {.transpose_b = true});
  gemm(t, up, flat(y), {.transpose_b = true, .alpha = scale, .accumulate = true});
  return record(
      op, y, {x, weight, bias, down, up},
      [scale, shape = x.shape(), dx_to = wants(x), dw_to = wants(weight), db_to = wants(bias), ddown_to = wants(down),
       dup_to = wants(up), x = keep(x, weight, down), weight = keep(weight, x), down = keep(down, x),
       up = keep(up, x, down), t = keep(t, up)](const Tensor& dy, GradientMap& gradients) {
        const Tensor rows = flat(dy);
        if (dup_to) gradients.add(dup_to, outer_sum(dup_to, rows, t, scale));
        if (dw_to) gradients.add(dw_to, outer_sum(dw_to, rows, flat(x)));
        if (db_to) gradients.add(db_to, sum_to(rows, db_to->shape));
        if (!dx_to && !ddown_to) return;
        const Tensor dt = Tensor::empty({rows.dim(0), up.dim(1)}, dy.dtype(), dy.device());
        gemm(rows, up, dt, {.alpha = scale});
        if (ddown_to) gradients.add(ddown_to, outer_sum(ddown_to, dt, flat(x)));
        if (!dx_to) return;
        const Tensor dx = linear_input_gradient(rows, weight, shape);
        gemm(dt, down, flat(dx), {.accumulate = true});
        gradients.add(dx_to, dx);
      });
}

Tensor Tensor::matmul(const Tensor& other) const { return flame::matmul(*this, other); }

}  // namespace flame
