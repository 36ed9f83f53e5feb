#pragma once

#include <limits>
#include <map>
#include <string>

#include "flame/optim/loss_scaling.h"
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

  // From now on gradients come multiplied by loss_scale(), which adapts to what f16 holds; norms are without it.
  void scale_losses(const LossScaling& scaling = {});
  bool scales_losses() const { return scaling_.growth_interval != 0; }
  // f32 [] where the parameters are, 1 before scale_losses(). Each step may change it.
  Tensor loss_scale() const;
  void zero_grad() const { pack_.zero_grad(); }

  const ParameterPack& pack() const { return pack_; }
  int64_t steps() const;    // made, without the skipped ones; waits for a GPU
  int64_t skipped() const;  // as well

  // All that a run needs to go on bit for bit, besides the parameters: tensors of its own on the CPU, one a parameter
  // and quantity ("exp_avg.NAME"), "step" and "skipped" (i64 []), and, where losses are scaled, "loss_scale" (f32 [])
  // and "good_steps" (i64 []). load() throws naming what is missing, unknown or has another shape.
  std::map<std::string, Tensor> save() const;
  void load(const std::map<std::string, Tensor>& saved);

 protected:
  // The update that `state`, a StepState, tells of, without reading it on the host; refreshes the compute copy.
  virtual void update(const Tensor& state) = 0;
  // The flat buffers, shaped like the pack's, that make up the state, with the names of their quantities.
  virtual NamedTensors state() const = 0;

 private:
  std::map<std::string, Tensor> views() const;
  std::map<std::string, Tensor> counts() const;  // what is saved of step_state_
  Tensor number(size_t offset) const;            // an f32 of step_state_, as a view

  ParameterPack pack_;
  Tensor step_state_;
  LossScaling scaling_{.initial = 1, .growth_interval = 0};
};

}  // namespace flame
