#include "flame/ops/loss.h"

#include "flame/autograd/tape.h"
#include "flame/ops/loss_kernels.h"
#include "flame/ops/on.h"

namespace flame {
namespace {

Tensor mean_error(const char* op, const ErrorRule& rule, const Tensor& prediction, const Tensor& target,
                  const Tensor& weights = {}) {
  require_same(op, prediction, target);
  require(is_floating(prediction.dtype()), op, "expected a floating tensor, got ", prediction.dtype());
  require(prediction.shape() == target.shape(), op, "prediction ", prediction.shape(), " does not fit target ",
          target.shape());
  require(prediction.numel() > 0, op, "expected elements, got shape ", prediction.shape());
  const Tensor loss = Tensor::empty({}, DType::f32, prediction.device());
  on<cpu::mean_error, cuda::mean_error>(prediction.device(), rule, prediction, target, weights, loss);
  return record(op, loss, {prediction, target},
                [rule, dp_to = wants(prediction), dt_to = wants(target),
                 prediction = keep(prediction, prediction, target), target = keep(target, prediction, target),
                 weights = keep(weights, prediction, target)](const Tensor& dy, GradientMap& gradients) {
                  const auto like = [&](const SlotPtr& to) {
                    return to ? Tensor::empty(to->shape, prediction.dtype(), to->device) : Tensor();
                  };
                  const Tensor dp = like(dp_to), dt = like(dt_to);
                  on<cpu::mean_error_gradients, cuda::mean_error_gradients>(dy.device(), rule, dy, prediction, target,
                                                                            weights, dp, dt);
                  if (dp_to) gradients.add(dp_to, dp);
                  if (dt_to) gradients.add(dt_to, dt);
                });
}

}  // namespace

Tensor mse_loss(const Tensor& prediction, const Tensor& target) {
  return mean_error("mse_loss", SquaredError(), prediction, target);
}

Tensor weighted_mse_loss(const Tensor& prediction, const Tensor& target, const Tensor& weights) {
  const char* op = "weighted_mse_loss";
  require(prediction.defined() && prediction.rank() >= 1, op, "expected samples [N, ...], got ", prediction.shape());
  require(weights.defined() && weights.dtype() == DType::f32 && weights.shape() == Shape{prediction.dim(0)}, op,
          "expected weights [", prediction.dim(0), "] f32, got ", weights);
  require(weights.device() == prediction.device(), op, "expected one device, got ", prediction.device(), " and ",
          weights.device());
  require(!wants(weights), op, "weights have no gradient, but want one; detach() them");
  return mean_error(op, SquaredError(), prediction, target, weights);
}

Tensor huber_loss(const Tensor& prediction, const Tensor& target, float delta) {
  require(delta > 0, "huber_loss", "expected a delta above 0, got ", delta);
  return mean_error("huber_loss", HuberError{delta}, prediction, target);
}

Tensor smooth_l1_loss(const Tensor& prediction, const Tensor& target, float beta) {
  require(beta >= 0, "smooth_l1_loss", "expected a beta of 0 or more, got ", beta);
  return mean_error("smooth_l1_loss", SmoothL1Error{beta}, prediction, target);
}

}  // namespace flame
