#pragma once

#include "flame/optim/adamw_kernels.h"
#include "flame/optim/optimizer.h"

namespace flame {

// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), as torch.optim.AdamW computes it.
class AdamW : public Optimizer {
 public:
  using Options = AdamWOptions;

  AdamW(ParameterPack pack, const Options& options);

 private:
  void update(const Tensor& state) override;
  NamedTensors state() const override;

  Options options_;
  Tensor exp_avg_, exp_avg_sq_;
};

}  // namespace flame
