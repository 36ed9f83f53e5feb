#pragma once

#include <limits>
#include <map>
#include <string>

#include "flame/optim/loss_scaling.h"
#include "flame/optim/parameter_pack.h"

namespace flame {

// The L2 norm of an f32 tensor, summed in double and in a fixed order. Waits for a GPU.
double gradient_norm(const Tensor& gradients);

// Moves the parameters of one pack, each group at its own rate. Derive and define update() and state() to add another.
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

  // Some optimisers train other values than those that are meant to be used: their averages. eval() puts these into the
  // pack until train() puts back, to the bit, what is trained. Steps and states are those of training: both throw
  // between the two. For other optimisers the two do nothing.
  virtual bool averages() const { return false; }
  void eval();
  void train();

  const ParameterPack& pack() const { return pack_; }
  int64_t steps() const;    // made, without the skipped ones; waits for a GPU
  int64_t skipped() const;  // as well

  int64_t state_bytes() const;  // of what it holds beside the pack

  // All that a run needs to go on bit for bit, besides the parameters: tensors of its own on the CPU, one a parameter
  // and quantity ("exp_avg.NAME"), "numbers" (i64) of some optimisers, "step" and "skipped" (i64 []), and, where losses
  // are scaled, "loss_scale" (f32 []) and "good_steps" (i64 []). load() throws naming what is missing, unknown or has
  // another shape.
  std::map<std::string, Tensor> save() const;
  void load(const std::map<std::string, Tensor>& saved);

 protected:
  // The update that `state`, a StepState, tells of, without reading it on the host; refreshes the compute copy.
  virtual void update(const Tensor& state) = 0;
  // What makes up the state, by the names that save() gives it: views of the optimiser's own.
  virtual std::map<std::string, Tensor> state() const = 0;
  // Of one that averages(): writes what is meant to be used into `values`, where what is trained stands.
  virtual void average(const Tensor&) const {}

  Tensor flat_zeros() const;  // shaped like the pack's values
  // Each parameter's part of flat buffers, as "QUANTITY.PARAMETER".
  std::map<std::string, Tensor> views(const NamedTensors& flat) const;

 private:
  void require_training(const char* what) const;
  std::map<std::string, Tensor> counts() const;  // what is saved of step_state_
  Tensor number(size_t offset) const;            // an f32 of step_state_, as a view

  ParameterPack pack_;
  Tensor step_state_;
  Tensor trained_;  // on the CPU, between eval() and train(): what was trained
  LossScaling scaling_{.initial = 1, .growth_interval = 0};
};

}  // namespace flame
