#pragma once

#include <limits>
#include <map>
#include <string>

#include "flame/optim/parameter_pack.h"

namespace flame {

// The L2 norm, summed in double in blocks of fixed size: the same bits for any number of threads.
double gradient_norm(const Tensor& gradients);

// What gradients are multiplied by so that their norm does not exceed max_norm; torch.nn.utils.clip_grad_norm_'s
// factor.
double clip_factor(double norm, double max_norm);

// Moves the parameters of one pack. Derive and define update() and state() to add another.
class Optimizer {
 public:
  explicit Optimizer(ParameterPack pack);  // throws if it is empty
  virtual ~Optimizer() = default;

  struct Step {
    double gradient_norm;  // before clipping
    bool skipped;          // the norm was not finite: nothing was moved
  };
  // One step along the pack's gradients, clipped to max_grad_norm. The gradients stay; see zero_grad().
  Step step(double learning_rate, double max_grad_norm = std::numeric_limits<double>::infinity());
  void zero_grad() const { pack_.zero_grad(); }

  const ParameterPack& pack() const { return pack_; }
  int64_t steps() const { return steps_; }  // made, without the skipped ones
  int64_t skipped() const { return skipped_; }

  // All that a run needs to go on bit for bit, besides the parameters: tensors of its own, one a parameter and quantity
  // ("exp_avg.NAME"), "step" and "skipped" (i64 []). load() throws naming what is missing, unknown or has another
  // shape.
  std::map<std::string, Tensor> save() const;
  void load(const std::map<std::string, Tensor>& saved);

 protected:
  // One step from gradients() times `scale`; `step` counts from 1.
  virtual void update(double learning_rate, float scale, int64_t step) = 0;
  // The flat buffers, shaped like the pack's, that make up the state, with the names of their quantities.
  virtual NamedTensors state() const = 0;

 private:
  std::map<std::string, Tensor> views() const;

  ParameterPack pack_;
  int64_t steps_ = 0;
  int64_t skipped_ = 0;
};

}  // namespace flame
