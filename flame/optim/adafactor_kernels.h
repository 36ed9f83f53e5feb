#pragma once

#include "flame/optim/optimizer_kernels.h"

namespace flame {

struct AdafactorOptions {
  double eps = 1e-30;         // added to squared gradients
  double eps_scale = 1e-3;    // the least scale of a parameter
  double clip_threshold = 1;  // of the root mean square of an update
  double decay_rate = -0.8;
  double beta1 = 0;  // 0: no first moment
  double weight_decay = 0;
  bool scale_parameter = true;  // steps are relative to a parameter's root mean square
  bool relative_step = true;    // the learning rate follows from the number of steps, whatever is asked for
  bool warmup_init = false;     // and begins at 1e-6

  // A step's learning rate, before scale_parameter.
  FLAME_SCALAR double rate(int64_t step, double asked) const {
    if (!relative_step) return asked;
    const double most = warmup_init ? 1e-6 * static_cast<double>(step) : 1e-2;
    const double slow = 1 / std::sqrt(static_cast<double>(step));
    return most < slow ? most : slow;
  }
};

// A parameter as `matrices` times [height, width]; a vector has a height of 0 and a moment for each element.
struct AdafactorShape {
  int64_t begin;          // in the flat buffers
  int64_t rows, columns;  // of its moments in theirs; of a vector: rows alone
  int64_t matrices, height, width;
  double lr, decay;  // its group's factors

  FLAME_SCALAR int64_t numel() const { return matrices * (height > 0 ? height : 1) * width; }
};

struct AdafactorBuffers {
  Tensor shapes;  // AdafactorShape by their bits: i64 [parameters, 8]
  Tensor values, gradients, directions, rows, columns, exp_avg, copy;  // exp_avg, copy: or no tensor
  int64_t most_matrices;                                               // of a parameter
};

// One step's numbers for one parameter.
struct AdafactorRule {
  float scale, decay, toward, eps;
  double rate, weight_decay;

  static FLAME_SCALAR AdafactorRule of(const AdafactorOptions& options, const AdafactorShape& shape,
                                       const StepState& state) {
    const double decay = 1 - std::pow(static_cast<double>(state.steps), options.decay_rate);
    return {state.scale,
            static_cast<float>(decay),
            static_cast<float>(1 - decay),
            static_cast<float>(options.eps),
            options.rate(state.steps, state.learning_rate * shape.lr),
            options.weight_decay * shape.decay};
  }
  FLAME_SCALAR float square(float gradient) const { return gradient * gradient + eps; }
  FLAME_SCALAR float blend(float moment, double mean) const {
    return decay * moment + toward * static_cast<float>(mean);
  }
};

// The last part, once the sizes of the values and of the direction are known.
struct AdafactorMove {
  float keep, length, beta1, toward1;

  static FLAME_SCALAR AdafactorMove of(const AdafactorOptions& options, const AdafactorRule& rule, double values_rms,
                                       double direction_rms) {
    double rate = rule.rate;
    if (options.scale_parameter) rate *= values_rms > options.eps_scale ? values_rms : options.eps_scale;
    const double over = direction_rms / options.clip_threshold;
    return {static_cast<float>(1 - rule.weight_decay * rate), static_cast<float>(rate / (over > 1 ? over : 1)),
            static_cast<float>(options.beta1), static_cast<float>(1 - options.beta1)};
  }
  FLAME_SCALAR float operator()(float value, float direction, float* exp_avg) const {
    float step = length * direction;
    if (exp_avg) step = *exp_avg = beta1 * *exp_avg + toward1 * step;
    return keep * value - step;
  }
};

}  // namespace flame

namespace flame::cpu {
void adafactor(const AdafactorBuffers& buffers, const AdafactorOptions& options, const Tensor& state);
}
namespace flame::cuda {
void adafactor(const AdafactorBuffers& buffers, const AdafactorOptions& options, const Tensor& state);
}
