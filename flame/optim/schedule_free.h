#pragma once

#include "flame/optim/optimizer.h"
#include "flame/optim/schedule_free_kernels.h"

namespace flame {

// Adam that needs no schedule (Defazio et al., arXiv:2405.15682), as schedulefree's AdamWScheduleFree computes it.
// While it trains the parameters are y, where gradients are taken; what is meant to be used is their average x.
class AdamWScheduleFree : public Optimizer {
 public:
  using Options = ScheduleFreeOptions;

  AdamWScheduleFree(ParameterPack pack, const Options& options);
  bool averages() const override { return true; }

 private:
  void update(const Tensor& state) override;
  std::map<std::string, Tensor> state() const override;
  void average(const Tensor& values) const override;

  Options options_;
  Tensor z_, exp_avg_sq_, numbers_;
};

}  // namespace flame
