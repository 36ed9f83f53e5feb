#include "flame/optim/adamw.h"

#include "flame/optim/update_kernels.h"
#include "flame/optim/update_rules.h"

namespace flame {

AdamW::AdamW(ParameterPack pack, const Options& options)
    : Optimizer(std::move(pack)), options_(options), exp_avg_(flat_zeros()), exp_avg_sq_(flat_zeros()) {}

std::map<std::string, Tensor> AdamW::state() const {
  return views({{"exp_avg", exp_avg_}, {"exp_avg_sq", exp_avg_sq_}});
}

void AdamW::update(const Tensor& state) {
  update_groups(pack(), {exp_avg_, exp_avg_sq_}, state, [&](const ParameterPack::Group& group) {
    return AdamWStep{options_, group.lr, group.weight_decay};
  });
}

}  // namespace flame
