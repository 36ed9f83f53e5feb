#pragma once

#include <limits>
#include <map>
#include <string>

#include "flame/optim/parameter_pack.h"

namespace flame {

// The L2 norm of an f32 tensor, summed in double and in a fixed order. Waits for a GPU.
double gradient_norm(const Tensor& gradients);

// Moves the parameters of one pack. Derive and define update() and state() to add another.
class Optimizer {
 public:
  explicit Optimizer(ParameterPack pack);  // throws if it is empty
  virtual ~Optimizer() = default;

  struct Step {
    double gradient_norm;  // before clipping
    bool skipped;          // the norm was not finite: nothing was moved
  };
  // One step along the pack's gradients, clipped to max_grad_norm. The gradients stay; see zero_grad(). Waits for a
  // GPU.
  Step step(double learning_rate, double max_grad_norm = std::numeric_limits<double>::infinity());
  // The same with a learning rate (f32 []) that is read when the GPU comes to it: nothing is waited for, and the step
  // can be captured.
  void step_on_device(const Tensor& learning_rate, double max_grad_norm = std::numeric_limits<double>::infinity());
  // The norm of the last step's gradients: f32 [] where the parameters are, overwritten by the next step. If it is not
  // finite, the step was skipped.
  Tensor last_norm() const;
  void zero_grad() const { pack_.zero_grad(); }

  const ParameterPack& pack() const { return pack_; }
  int64_t steps() const;    // made, without the skipped ones; waits for a GPU
  int64_t skipped() const;  // as well

  // All that a run needs to go on bit for bit, besides the parameters: tensors of its own on the CPU, one a parameter
  // and quantity ("exp_avg.NAME"), "step" and "skipped" (i64 []). load() throws naming what is missing, unknown or has
  // another shape.
  std::map<std::string, Tensor> save() const;
  void load(const std::map<std::string, Tensor>& saved);

 protected:
  // The update that `state`, a StepState, tells of, without reading it on the host; refreshes the compute copy.
  virtual void update(const Tensor& state) = 0;
  // The flat buffers, shaped like the pack's, that make up the state, with the names of their quantities.
  virtual NamedTensors state() const = 0;

 private:
  std::map<std::string, Tensor> views() const;

  ParameterPack pack_;
  Tensor step_state_;
};

}  // namespace flame
