#pragma once

#include "flame/optim/optimizer_kernels.h"

namespace flame {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;
};

// One step's numbers and its rule, for both devices.
struct AdamWRule {
  float scale, keep, step_size, root, eps, toward1, keep2, toward2;

  static FLAME_SCALAR AdamWRule of(const AdamWOptions& options, const StepState& state) {
    const double correction1 = 1 - std::pow(options.beta1, static_cast<double>(state.steps));
    const double correction2 = 1 - std::pow(options.beta2, static_cast<double>(state.steps));
    return {state.scale,
            static_cast<float>(1 - state.learning_rate * options.weight_decay),
            static_cast<float>(state.learning_rate / correction1),
            static_cast<float>(std::sqrt(correction2)),
            static_cast<float>(options.eps),
            static_cast<float>(1 - options.beta1),
            static_cast<float>(options.beta2),
            static_cast<float>(1 - options.beta2)};
  }

  // Moves the running averages; the new value.
  FLAME_SCALAR float operator()(float value, float raw_gradient, float& exp_avg, float& exp_avg_sq) const {
    const float gradient = scale * raw_gradient;
    const float m = exp_avg + toward1 * (gradient - exp_avg);
    const float v = keep2 * exp_avg_sq + toward2 * gradient * gradient;
    exp_avg = m;
    exp_avg_sq = v;
    return keep * value - step_size * m / (std::sqrt(v) / root + eps);
  }
};

// Flat buffers, f32 but for `copy`: the values in another dtype, or no tensor.
struct AdamWBuffers {
  Tensor values, gradients, exp_avg, exp_avg_sq, copy;
};

}  // namespace flame

// The update of a step that begin_step has begun: nothing if the state says that it is skipped.
namespace flame::cpu {
void adamw(const AdamWBuffers& buffers, const AdamWOptions& options, const Tensor& state);
}
namespace flame::cuda {
void adamw(const AdamWBuffers& buffers, const AdamWOptions& options, const Tensor& state);
}
