#include "flame/optim/lion.h"

#include "flame/optim/update_kernels.h"
#include "flame/optim/update_rules.h"

namespace flame {

Lion::Lion(ParameterPack pack, const Options& options)
    : Optimizer(std::move(pack)), options_(options), exp_avg_(flat_zeros()) {}

std::map<std::string, Tensor> Lion::state() const { return views({{"exp_avg", exp_avg_}}); }

void Lion::update(const Tensor& state) {
  update_groups(pack(), {exp_avg_}, state, [&](const ParameterPack::Group& group) {
    return LionStep{options_, group.lr, group.weight_decay};
  });
}

}  // namespace flame
