#include "flame/optim/parameter_pack.h"

#include <cmath>

#include "flame/ops/layout_kernels.h"
#include "flame/ops/on.h"

namespace flame {

ParameterPack::ParameterPack(const NamedTensors& initial, DType compute)
    : ParameterPack(std::vector<ParameterGroup>{{.parameters = initial}}, compute) {}

ParameterPack::ParameterPack(const std::vector<ParameterGroup>& groups, DType compute) {
  require(is_floating(compute), "ParameterPack", "expected a floating dtype to compute in, got ", compute);
  NamedTensors initial;
  int64_t total = 0;
  for (const ParameterGroup& group : groups) {
    require(std::isfinite(group.lr) && group.lr >= 0 && group.weight_decay >= 0, "ParameterPack",
            "expected factors of 0 or more for a group's learning rate and weight decay, got ", group.lr, " and ",
            group.weight_decay);
    int64_t numel = 0;
    for (const auto& [name, value] : group.parameters) numel += value.defined() ? value.numel() : 0;
    if (numel > 0) groups_.push_back({total, numel, group.lr, group.weight_decay});
    initial.insert(initial.end(), group.parameters.begin(), group.parameters.end());
    total += numel;
  }
  for (const auto& [name, value] : initial) {
    require(value.defined() && value.dtype() == DType::f32, "ParameterPack", "expected f32 for ", name);
    require(index_.emplace(name, index_.size()).second, "ParameterPack", "there are two parameters called ", name);
  }
  if (initial.empty()) return;
  const Device device = initial.front().second.device();
  {
    PurposeScope purpose(Purpose::adapters);
    values_ = Tensor::empty({total}, DType::f32, device);
    if (compute != DType::f32) compute_copy_ = Tensor::empty({total}, compute, device);
  }
  {
    PurposeScope purpose(Purpose::gradients);
    gradients_ = Tensor::zeros({total}, DType::f32, device);
  }
  int64_t offset = 0;
  for (const auto& [name, value] : initial) {
    const auto own = [&](const Tensor& flat) { return flat.rows(offset, value.numel()).view(value.shape()); };
    const Tensor master = own(values_);
    master.copy_from(value);
    const Tensor leaf = (compute_copy_.defined() ? own(compute_copy_) : master).requires_grad(DType::f32);
    parameters_.push_back({name, leaf, master, own(gradients_), offset});
    offset += value.numel();
  }
  refresh();
}

void ParameterPack::refresh() const {
  if (compute_copy_.defined()) on<cpu::cast, cuda::cast>(values_.device(), values_, compute_copy_);
}

const ParameterPack::Parameter& ParameterPack::operator[](const std::string& name) const {
  const auto found = index_.find(name);
  require(found != index_.end(), "ParameterPack", "there is no parameter called ", name);
  return parameters_[found->second];
}

void ParameterPack::bind(GradientMap& gradients) const {
  for (const Parameter& parameter : parameters_) gradients.bind(parameter.value, parameter.gradient);
}

void ParameterPack::zero_grad() const {
  if (gradients_.defined()) gradients_.fill(0);
}

Tensor ParameterPack::view(const Tensor& flat, const Parameter& parameter) {
  return flat.rows(parameter.offset, parameter.value.numel()).view(parameter.value.shape());
}

}  // namespace flame
