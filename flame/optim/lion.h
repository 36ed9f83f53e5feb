#pragma once

#include "flame/optim/optimizer.h"

namespace flame {

struct LionOptions {
  double beta1 = 0.9, beta2 = 0.99;
  double weight_decay = 0;
};

// Chen et al., arXiv:2302.06675, as lion-pytorch computes it: a step moves each value by the learning rate.
class Lion : public Optimizer {
 public:
  using Options = LionOptions;

  Lion(ParameterPack pack, const Options& options);

 private:
  void update(const Tensor& state) override;
  std::map<std::string, Tensor> state() const override;

  Options options_;
  Tensor exp_avg_;
};

}  // namespace flame
