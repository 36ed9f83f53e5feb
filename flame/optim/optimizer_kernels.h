#pragma once

#include <cmath>

#include "flame/optim/loss_scaling.h"

namespace flame {

// What gradients are multiplied by so that their norm does not exceed max_norm; torch.nn.utils.clip_grad_norm_'s
// factor.
FLAME_SCALAR double clip_factor(double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  return factor < 1 ? factor : 1;
}

// What the kernels of an optimiser's step tell each other and the next step; it stays on the parameters' device.
struct StepState {
  double learning_rate;
  double norm;         // of the gradients, before clipping
  int64_t steps;       // made, without the skipped ones
  int64_t skipped;     // those without a finite norm
  float scale;         // what gradients are multiplied by
  float norm_f32;      // the norm once more, for those who read f32
  int32_t skip;        // this step is one without a finite norm: nothing may move
  int32_t good_steps;  // since the scale of losses has changed, or a step was skipped
  float loss_scale;    // what the next gradients come multiplied by

  FLAME_SCALAR void begin(double sum_of_squares, double rate, double max_norm, const LossScaling& scaling) {
    learning_rate = rate;
    norm = std::sqrt(sum_of_squares) / loss_scale;
    norm_f32 = static_cast<float>(norm);
    scale = static_cast<float>(clip_factor(norm, max_norm) / loss_scale);
    skip = !std::isfinite(norm);
    ++(skip ? skipped : steps);
    scaling.update(!skip, loss_scale, good_steps);
  }

  static Tensor make(Device device) {
    const Tensor state = Tensor::zeros({sizeof(StepState) / sizeof(float)}, DType::f32);
    in(state)->loss_scale = 1;
    return state.to(device);
  }
  static StepState* in(const Tensor& state) { return reinterpret_cast<StepState*>(state.raw()); }
  static StepState read(const Tensor& state) { return *in(state.to(Device::cpu())); }  // waits for a GPU
};

// A number, or where it stands: f32 [] on the parameters' device.
struct LearningRate {
  double value = 0;
  Tensor scalar = {};
};

}  // namespace flame

// A step up to the update: the norm of the gradients (f32), and all that the state says about this step.
namespace flame::cpu {
void begin_step(const Tensor& gradients, const LearningRate& rate, double max_norm, const LossScaling& scaling,
                const Tensor& state);
}
namespace flame::cuda {
void begin_step(const Tensor& gradients, const LearningRate& rate, double max_norm, const LossScaling& scaling,
                const Tensor& state);
}
