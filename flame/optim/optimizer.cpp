#include "flame/optim/optimizer.h"

#include <cmath>
#include <cstddef>

#include "flame/ops/on.h"
#include "flame/optim/optimizer_kernels.h"

namespace flame {
namespace {

void begin_step(const Tensor& gradients, const LearningRate& rate, double max_norm, const LossScaling& scaling,
                const Tensor& state) {
  on<cpu::begin_step, cuda::begin_step>(gradients.device(), gradients, rate, max_norm, scaling, state);
}

}  // namespace

double gradient_norm(const Tensor& gradients) {
  const Tensor state = StepState::make(gradients.device());
  begin_step(gradients, {}, 1, {.growth_interval = 0}, state);
  return StepState::read(state).norm;
}

Optimizer::Optimizer(ParameterPack pack) : pack_(std::move(pack)) {
  if (pack_.numel() == 0) fail("there is nothing to train: the optimiser was given no parameters");
  PurposeScope purpose(Purpose::optimizer);
  step_state_ = StepState::make(pack_.values().device());
}

Optimizer::Step Optimizer::step(double learning_rate, double max_grad_norm) {
  require_training("step");
  begin_step(pack_.gradients(), {learning_rate}, max_grad_norm, scaling_, step_state_);
  update(step_state_);
  const double norm = StepState::read(step_state_).norm;
  return {norm, !std::isfinite(norm)};
}

void Optimizer::step_on_device(const Tensor& learning_rate, double max_grad_norm) {
  require_training("step_on_device");
  require(learning_rate.defined() && learning_rate.dtype() == DType::f32 && learning_rate.numel() == 1 &&
              learning_rate.device() == pack_.values().device(),
          "step_on_device", "expected a learning rate f32 [] on ", pack_.values().device(), ", got ", learning_rate);
  begin_step(pack_.gradients(), {.scalar = learning_rate}, max_grad_norm, scaling_, step_state_);
  update(step_state_);
}

Tensor Optimizer::number(size_t offset) const {
  return step_state_.rows(static_cast<int64_t>(offset / sizeof(float)), 1).view({});
}

Tensor Optimizer::last_norm() const { return number(offsetof(StepState, norm_f32)); }
Tensor Optimizer::loss_scale() const { return number(offsetof(StepState, loss_scale)); }

void Optimizer::scale_losses(const LossScaling& scaling) {
  require(scaling.initial > 0 && std::isfinite(scaling.initial) && scaling.growth_interval > 0, "scale_losses",
          "expected a scale and an interval above 0, got ", scaling.initial, " and ", scaling.growth_interval);
  scaling_ = scaling;
  loss_scale().copy_from(Tensor::from({scaling.initial}, {}));
}

int64_t Optimizer::steps() const { return StepState::read(step_state_).steps; }
int64_t Optimizer::skipped() const { return StepState::read(step_state_).skipped; }

Tensor Optimizer::flat_zeros() const {
  PurposeScope purpose(Purpose::optimizer);
  return Tensor::zeros(pack_.values().shape(), DType::f32, pack_.values().device());
}

std::map<std::string, Tensor> Optimizer::views(const NamedTensors& flat_buffers) const {
  std::map<std::string, Tensor> result;
  for (const auto& [quantity, flat] : flat_buffers) {
    for (const auto& parameter : pack_.parameters())
      result[quantity + "." + parameter.name] = ParameterPack::view(flat, parameter);
  }
  return result;
}

int64_t Optimizer::state_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : state()) bytes += static_cast<int64_t>(tensor.bytes());
  return bytes;
}

void Optimizer::require_training(const char* what) const {
  require(!trained_.defined(), what, "the parameters are those to be used, not those that are trained: call train()");
}

void Optimizer::eval() {
  if (!averages() || trained_.defined()) return;
  const Tensor& values = pack_.values();
  trained_ = values.device().is_cpu() ? values.clone() : values.to(Device::cpu());
  average(values);
  pack_.refresh();
}

void Optimizer::train() {
  if (!trained_.defined()) return;
  pack_.values().copy_from(trained_);
  pack_.refresh();
  trained_ = {};
}

std::map<std::string, Tensor> Optimizer::counts() const {
  const StepState now = StepState::read(step_state_);
  std::map<std::string, Tensor> result = {{"step", Tensor::from({now.steps}, {})},
                                          {"skipped", Tensor::from({now.skipped}, {})}};
  if (!scales_losses()) return result;
  result["loss_scale"] = Tensor::from({now.loss_scale}, {});
  result["good_steps"] = Tensor::from({int64_t{now.good_steps}}, {});
  return result;
}

std::map<std::string, Tensor> Optimizer::save() const {
  require_training("save");
  std::map<std::string, Tensor> result = state();
  for (auto& [name, tensor] : result) tensor = tensor.device().is_cpu() ? tensor.clone() : tensor.to(Device::cpu());
  result.merge(counts());
  return result;
}

void Optimizer::load(const std::map<std::string, Tensor>& saved) {
  require_training("load");
  std::map<std::string, Tensor> own = state();
  own.merge(counts());
  for (const auto& [name, tensor] : own) {
    const auto found = saved.find(name);
    if (found == saved.end()) fail("the optimiser's state has no tensor ", name);
    const Tensor& value = found->second;
    if (value.shape() != tensor.shape() || value.dtype() != tensor.dtype())
      fail("the optimiser's state ", name, ": expected ", tensor.shape(), " ", tensor.dtype(), ", got ", value.shape(),
           " ", value.dtype());
  }
  for (const auto& [name, tensor] : saved) {
    if (!own.contains(name)) fail("the optimiser's state has a tensor ", name, " that belongs to no parameter");
  }
  for (const auto& [name, tensor] : own) tensor.copy_from(saved.at(name));
  const Tensor state = StepState::make(Device::cpu());
  StepState::in(state)->steps = *own["step"].data<int64_t>();
  StepState::in(state)->skipped = *own["skipped"].data<int64_t>();
  if (scales_losses()) {
    StepState::in(state)->loss_scale = *own["loss_scale"].data<float>();
    StepState::in(state)->good_steps = static_cast<int32_t>(*own["good_steps"].data<int64_t>());
  }
  step_state_.copy_from(state);
}

}  // namespace flame
