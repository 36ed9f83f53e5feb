#pragma once

#include "flame/optim/adamw.h"
#include "flame/optim/lion.h"
#include "flame/optim/prodigy_kernels.h"
#include "flame/optim/schedule_free_kernels.h"

namespace flame {

// The steps of optimisers that move each value by itself.

struct AdamWRule {
  float scale, keep, step_size, root, eps, toward1, keep2, toward2;

  FLAME_SCALAR float operator()(float value, float raw_gradient, std::array<float, 2>& averages) const {
    const float gradient = scale * raw_gradient;
    const float m = averages[0] + toward1 * (gradient - averages[0]);
    const float v = keep2 * averages[1] + toward2 * gradient * gradient;
    averages[0] = m;
    averages[1] = v;
    return keep * value - step_size * m / (std::sqrt(v) / root + eps);
  }
};

struct AdamWStep {
  static constexpr int states = 2;  // exp_avg, exp_avg_sq
  AdamWOptions options;
  double lr, decay;  // the group's factors

  FLAME_SCALAR AdamWRule operator()(const StepState& state) const {
    const double rate = state.learning_rate * lr;
    const double correction1 = 1 - std::pow(options.beta1, static_cast<double>(state.steps));
    const double correction2 = 1 - std::pow(options.beta2, static_cast<double>(state.steps));
    return {state.scale,
            static_cast<float>(1 - rate * decay * options.weight_decay),
            static_cast<float>(rate / correction1),
            static_cast<float>(std::sqrt(correction2)),
            static_cast<float>(options.eps),
            static_cast<float>(1 - options.beta1),
            static_cast<float>(options.beta2),
            static_cast<float>(1 - options.beta2)};
  }
};

struct LionRule {
  float scale, keep, rate, beta1, toward1, beta2, toward2;

  FLAME_SCALAR float operator()(float value, float raw_gradient, std::array<float, 1>& average) const {
    const float gradient = scale * raw_gradient;
    const float direction = beta1 * average[0] + toward1 * gradient;
    const float sign = static_cast<float>(direction > 0) - static_cast<float>(direction < 0);
    average[0] = beta2 * average[0] + toward2 * gradient;
    return keep * value - rate * sign;
  }
};

struct LionStep {
  static constexpr int states = 1;  // exp_avg
  LionOptions options;
  double lr, decay;

  FLAME_SCALAR LionRule operator()(const StepState& state) const {
    const double rate = state.learning_rate * lr;
    return {state.scale,
            static_cast<float>(1 - rate * decay * options.weight_decay),
            static_cast<float>(rate),
            static_cast<float>(options.beta1),
            static_cast<float>(1 - options.beta1),
            static_cast<float>(options.beta2),
            static_cast<float>(1 - options.beta2)};
  }
};

struct ScheduleFreeRule {
  float scale, keep2, toward2, root, eps, decay, toward_z, along_y, along_z;

  // The value is y, where gradients are taken.
  FLAME_SCALAR float operator()(float y, float raw_gradient, std::array<float, 2>& z_and_square) const {
    auto& [z, square] = z_and_square;
    const float gradient = scale * raw_gradient;
    const float v = keep2 * square + toward2 * gradient * gradient;
    square = v;
    const float step = gradient / (std::sqrt(v) / root + eps) + decay * y;
    const float moved = y + toward_z * (z - y) + along_y * step;
    z -= along_z * step;
    return moved;
  }
};

struct ScheduleFreeStep {
  static constexpr int states = 2;  // z, exp_avg_sq
  ScheduleFreeOptions options;
  double decay;
  const ScheduleFreeNumbers* numbers;  // of the group, for this step

  FLAME_SCALAR ScheduleFreeRule operator()(const StepState& state) const {
    const double correction2 = 1 - std::pow(options.beta2, static_cast<double>(state.steps));
    const double rate = numbers->rate, share = numbers->share;
    return {state.scale,
            static_cast<float>(options.beta2),
            static_cast<float>(1 - options.beta2),
            static_cast<float>(std::sqrt(correction2)),
            static_cast<float>(options.eps),
            static_cast<float>(options.weight_decay * decay),
            static_cast<float>(share),
            static_cast<float>(rate * (options.beta1 * (1 - share) - 1)),
            static_cast<float>(rate)};
  }
};

struct ProdigyRule {
  float scale, keep, rate, eps, of_gradient, coupled;

  FLAME_SCALAR float operator()(float value, float raw_gradient, std::array<float, 2>& averages) const {
    const float gradient = scale * raw_gradient + coupled * value;
    const float direction = of_gradient != 0 ? of_gradient * gradient : averages[0];
    return keep * value - rate * direction / (std::sqrt(averages[1]) + eps);
  }
};

// The values' part of the step, once the new estimate is known.
struct ProdigyStep {
  static constexpr int states = 2;  // exp_avg, exp_avg_sq
  ProdigyOptions options;
  double lr, decay;
  const ProdigyNumbers* numbers;

  FLAME_SCALAR ProdigyRule operator()(const StepState& state) const {
    const double weight_decay = options.weight_decay * decay;
    const double rate = numbers->idle || lr == 0 ? 0 : numbers->rate;
    return {state.scale,
            static_cast<float>(1 - (options.decouple ? rate * weight_decay : 0)),
            static_cast<float>(rate),
            static_cast<float>(numbers->d * options.eps),
            static_cast<float>(options.beta1 == 0 ? numbers->d : 0),
            static_cast<float>(options.decouple ? 0 : weight_decay)};
  }
};

}  // namespace flame
