#pragma once

#include "flame/optim/optimizer.h"
#include "flame/optim/prodigy_kernels.h"

namespace flame {

// Adam that finds its own step size (Mishchenko and Defazio, arXiv:2306.06101), as prodigyopt computes it. The learning
// rate is a factor, usually 1; of a pack's groups it takes those that have the same one, or 0.
class Prodigy : public Optimizer {
 public:
  using Options = ProdigyOptions;

  Prodigy(ParameterPack pack, const Options& options);
  double d() const;  // the estimate of the step size; waits for a GPU

 private:
  void update(const Tensor& state) override;
  std::map<std::string, Tensor> state() const override;

  Options options_;
  double lr_ = 0;  // of the groups that move
  Tensor start_, exp_avg_, exp_avg_sq_, s_, numbers_;
};

}  // namespace flame
