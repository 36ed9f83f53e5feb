#pragma once

#include "flame/optim/optimizer_kernels.h"

namespace flame {

struct ScheduleFreeOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  int64_t warmup_steps = 0;
  double r = 0;                // a step counts in the average as the r-th power of its number
  double weight_lr_power = 2;  // and as this power of the largest learning rate so far
};

// One group's; they stay on the parameters' device.
struct ScheduleFreeNumbers {
  double weight_sum = 0, lr_max = -1;
  double rate = 0, share = 0;  // of this step: its learning rate, and its share in the average

  FLAME_SCALAR void begin(const ScheduleFreeOptions& options, const StepState& state, double lr) {
    if (state.skip) return;
    const auto step = static_cast<double>(state.steps);
    const double warm = state.steps <= options.warmup_steps ? step / static_cast<double>(options.warmup_steps) : 1;
    rate = state.learning_rate * lr * warm;
    lr_max = rate > lr_max ? rate : lr_max;
    const double weight = std::pow(step, options.r) * std::pow(lr_max, options.weight_lr_power);
    weight_sum += weight;
    share = weight_sum != 0 ? weight / weight_sum : 0;
  }
  static Tensor make(size_t groups, Device device);  // i64, by their bits
  static ScheduleFreeNumbers* in(const Tensor& numbers) {
    return reinterpret_cast<ScheduleFreeNumbers*>(numbers.raw());
  }
};

}  // namespace flame

namespace flame::cpu {
void begin_schedule_free(const ScheduleFreeOptions& options, const Tensor& state, double lr,
                         ScheduleFreeNumbers* numbers);
}
namespace flame::cuda {
void begin_schedule_free(const ScheduleFreeOptions& options, const Tensor& state, double lr,
                         ScheduleFreeNumbers* numbers);
}
