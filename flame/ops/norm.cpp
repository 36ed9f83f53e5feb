#include "flame/ops/norm.h"

#include "flame/autograd/tape.h"
#include "flame/ops/layout.h"
#include "flame/ops/norm_kernels.h"
#include "flame/ops/on.h"
#include "flame/ops/reduce.h"

namespace flame {
namespace {

void require_gain_and_bias(Op op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  require(is_floating(x.dtype()), op, "expected a floating tensor, got ", x.dtype());
  require_same(op, x, weight);
  require_same(op, x, bias);
  const Shape channels = {x.dim(-1)};
  require(weight.shape() == channels && bias.shape() == channels, op, "input ", x.shape(), " expects a gain and bias ",
          channels, ", got ", weight.shape(), " and ", bias.shape());
}

Tensor group_norm(const char* op, const Tensor& x, int groups, const Tensor& weight, const Tensor& bias, float eps,
                  bool silu) {
  require(x.defined() && x.rank() >= 2, op, "expected [N, ..., C], got ", x.shape());
  require_gain_and_bias(op, x, weight, bias);
  require(groups > 0 && x.dim(-1) % groups == 0, op, "expected channels in ", groups, " groups, got ", x.shape());
  require(x.numel() > 0, op, "expected elements, got shape ", x.shape());
  const Shape per_group = {x.dim(0), groups};
  GroupNormTask task = {x.detach(),
                        weight.detach(),
                        bias.detach(),
                        Tensor::empty(per_group, DType::f32, x.device()),
                        Tensor::empty(per_group, DType::f32, x.device()),
                        groups,
                        silu};
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  on<cpu::group_norm, cuda::group_norm>(x.device(), task, eps, y);

  // dx reads the gain; silu's slope reads the whole affine map.
  if (silu) {
    task = {keep(x, x, weight, bias),
            keep(weight, x, weight, bias),
            keep(bias, x, weight, bias),
            keep(task.mean, x, weight, bias),
            keep(task.rstd, x, weight, bias),
            groups,
            silu};
  } else {
    task = {keep(x, x, weight),         keep(weight, x), {},  keep(task.mean, x, weight),
            keep(task.rstd, x, weight), groups,          silu};
  }
  return record(
      op, y, {x, weight, bias},
      [dx_to = wants(x), dw_to = wants(weight), db_to = wants(bias), task](const Tensor& dy, GradientMap& gradients) {
        const auto like = [&](const SlotPtr& to) {
          return to ? Tensor::empty(to->shape, dy.dtype(), dy.device()) : Tensor();
        };
        if (!task.x.defined()) return gradients.add(db_to, sum_to(dy, db_to->shape));
        const NormGradients out = {like(dx_to), like(dw_to), like(db_to)};
        on<cpu::group_norm_backward, cuda::group_norm_backward>(dy.device(), task, dy, out);
        if (dx_to) gradients.add(dx_to, out.dx);
        if (dw_to) gradients.add(dw_to, out.dweight);
        if (db_to) gradients.add(db_to, out.dbias);
      });
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) {
  require(x.defined() && x.rank() >= 1 && x.dim(-1) > 0, "layer_norm", "expected [..., C], got ", x.shape());
  require_gain_and_bias("layer_norm", x, weight, bias);
  const Shape rows = x.shape().without(-1);
  const Tensor mean = Tensor::empty(rows, DType::f32, x.device()), rstd = Tensor::empty(rows, DType::f32, x.device());
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  on<cpu::layer_norm, cuda::layer_norm>(x.device(), x, weight, bias, eps, y, mean, rstd);
  return record(
      "layer_norm", y, {x, weight, bias},
      [dx_to = wants(x), dw_to = wants(weight), db_to = wants(bias), x = keep(x, x, weight), weight = keep(weight, x),
       mean = keep(mean, x, weight), rstd = keep(rstd, x, weight)](const Tensor& dy, GradientMap& gradients) {
        if (dx_to) {
          const Tensor dx = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
          on<cpu::layer_norm_dx, cuda::layer_norm_dx>(dy.device(), dy, x, weight, mean, rstd, dx);
          gradients.add(dx_to, dx);
        }
        if (dw_to) {
          const Tensor products = Tensor::empty(dy.shape(), DType::f32, dy.device());
          on<cpu::layer_norm_products, cuda::layer_norm_products>(dy.device(), dy, x, mean, rstd, products);
          gradients.add(dw_to, cast(sum_to(products, dw_to->shape), dy.dtype()));
        }
        if (db_to) gradients.add(db_to, sum_to(dy, db_to->shape));
      });
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, float eps) {
  require(x.defined() && x.rank() >= 1 && x.dim(-1) > 0, "rms_norm", "expected [..., C], got ", x.shape());
  require(is_floating(x.dtype()), "rms_norm", "expected a floating tensor, got ", x.dtype());
  require_same("rms_norm", x, weight);
  require(weight.shape() == Shape{x.dim(-1)}, "rms_norm", "input ", x.shape(), " expects a gain ", Shape{x.dim(-1)},
          ", got ", weight.shape());
  const Tensor rrms = Tensor::empty(x.shape().without(-1), DType::f32, x.device());
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  on<cpu::rms_norm, cuda::rms_norm>(x.device(), x, weight, eps, y, rrms);
  return record("rms_norm", y, {x, weight},
                [dx_to = wants(x), dw_to = wants(weight), x = keep(x, x, weight), weight = keep(weight, x),
                 rrms = keep(rrms, x, weight)](const Tensor& dy, GradientMap& gradients) {
                  if (dx_to) {
                    const Tensor dx = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
                    on<cpu::rms_norm_dx, cuda::rms_norm_dx>(dy.device(), dy, x, weight, rrms, dx);
                    gradients.add(dx_to, dx);
                  }
                  if (dw_to) {
                    const Tensor products = Tensor::empty(dy.shape(), DType::f32, dy.device());
                    on<cpu::rms_norm_products, cuda::rms_norm_products>(dy.device(), dy, x, rrms, products);
                    gradients.add(dw_to, cast(sum_to(products, dw_to->shape), dy.dtype()));
                  }
                });
}

Tensor group_norm(const Tensor& x, int groups, const Tensor& weight, const Tensor& bias, float eps) {
  return group_norm("group_norm", x, groups, weight, bias, eps, false);
}

Tensor group_norm_silu(const Tensor& x, int groups, const Tensor& weight, const Tensor& bias, float eps) {
  return group_norm("group_norm_silu", x, groups, weight, bias, eps, true);
}

Tensor geglu(const Tensor& x) {
  require(x.defined() && x.rank() >= 1 && x.dim(-1) % 2 == 0, "geglu", "expected [..., 2C], got ", x.shape());
  require(is_floating(x.dtype()), "geglu", "expected a floating tensor, got ", x.dtype());
  const Tensor y = Tensor::empty(x.shape().with(-1, x.dim(-1) / 2), x.dtype(), x.device());
  on<cpu::geglu, cuda::geglu>(x.device(), x, y);
  return record("geglu", y, {x}, [dx_to = wants(x), x = keep(x, x)](const Tensor& dy, GradientMap& gradients) {
    const Tensor dx = Tensor::empty(x.shape(), dy.dtype(), dy.device());
    on<cpu::geglu_dx, cuda::geglu_dx>(dy.device(), dy, x, dx);
    gradients.add(dx_to, dx);
  });
}

}  // namespace flame
