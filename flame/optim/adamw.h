#pragma once

#include "flame/optim/optimizer.h"

namespace flame {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;
};

// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), as torch.optim.AdamW computes it.
class AdamW : public Optimizer {
 public:
  using Options = AdamWOptions;

  AdamW(ParameterPack pack, const Options& options);

 private:
  void update(const Tensor& state) override;
  std::map<std::string, Tensor> state() const override;

  Options options_;
  Tensor exp_avg_, exp_avg_sq_;
};

}  // namespace flame
