#include "flame/optim/schedule_free.h"

#include <algorithm>

#include "flame/ops/pointwise.h"
#include "flame/optim/update_kernels.h"
#include "flame/optim/update_rules.h"

namespace flame {

void cpu::begin_schedule_free(const ScheduleFreeOptions& options, const Tensor& state, double lr,
                              ScheduleFreeNumbers* numbers) {
  numbers->begin(options, *StepState::in(state), lr);
}

Tensor ScheduleFreeNumbers::make(size_t groups, Device device) {
  const auto each = static_cast<int64_t>(sizeof(ScheduleFreeNumbers) / sizeof(int64_t));
  const Tensor numbers = Tensor::zeros({static_cast<int64_t>(groups), each}, DType::i64);
  for (size_t i = 0; i < groups; ++i) in(numbers)[i] = {};
  return numbers.to(device);
}

AdamWScheduleFree::AdamWScheduleFree(ParameterPack pack, const Options& options)
    : Optimizer(std::move(pack)), options_(options), z_(flat_zeros()), exp_avg_sq_(flat_zeros()) {
  require(options.beta1 > 0, "AdamWScheduleFree", "expected a beta1 above 0, got ", options.beta1);
  PurposeScope purpose(Purpose::optimizer);
  z_.copy_from(this->pack().values());
  numbers_ = ScheduleFreeNumbers::make(this->pack().groups().size(), z_.device());
}

std::map<std::string, Tensor> AdamWScheduleFree::state() const {
  auto result = views({{"z", z_}, {"exp_avg_sq", exp_avg_sq_}});
  result["numbers"] = numbers_;
  return result;
}

void AdamWScheduleFree::update(const Tensor& state) {
  ScheduleFreeNumbers* numbers = ScheduleFreeNumbers::in(numbers_);
  for (size_t i = 0; i < pack().groups().size(); ++i)
    on<cpu::begin_schedule_free, cuda::begin_schedule_free>(state.device(), options_, state, pack().groups()[i].lr,
                                                            numbers + i);
  update_groups(pack(), {z_, exp_avg_sq_}, state, [&](const ParameterPack::Group& group) {
    return ScheduleFreeStep{options_, group.weight_decay, numbers + (&group - pack().groups().data())};
  });
}

void AdamWScheduleFree::average(const Tensor& values) const {
  constexpr int64_t piece = 1 << 22;  // so that it takes little memory
  for (int64_t begin = 0; begin < values.numel(); begin += piece) {
    const int64_t count = std::min(piece, values.numel() - begin);
    const Tensor y = values.rows(begin, count), z = z_.rows(begin, count);
    y.copy_from(y + (z - y) * static_cast<float>(1 - 1 / options_.beta1));
  }
}

}  // namespace flame
