#pragma once

#include "flame/optim/optimizer_kernels.h"

namespace flame {

struct ProdigyOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double beta3 = 0;  // 0: the root of beta2
  double eps = 1e-8;
  double weight_decay = 0;
  bool decouple = true;
  bool use_bias_correction = false;
  bool safeguard_warmup = false;  // the estimate does not see the learning rate
  double d0 = 1e-6;               // the first estimate
  double d_coef = 1;
  double growth_rate = INFINITY;  // the most that the estimate grows by in a step
};

// They stay on the parameters' device.
struct ProdigyNumbers {
  double d, d_max, d_numerator;
  int64_t k;     // steps that had gradients
  double rate;   // of this step, with the estimate that it began with
  int64_t idle;  // this step has no gradients at all

  FLAME_SCALAR double step_rate(const ProdigyOptions& options, double learning_rate) const {
    const auto step = static_cast<double>(k + 1);
    const double correction = options.use_bias_correction
                                  ? std::sqrt(1 - std::pow(options.beta2, step)) / (1 - std::pow(options.beta1, step))
                                  : 1;
    return d * learning_rate * correction;
  }

  // carried: the sum of gradient * (start - value); size: of the absolute values of s.
  FLAME_SCALAR void estimate(const ProdigyOptions& options, double learning_rate, double beta3, double carried,
                             double size) {
    rate = step_rate(options, learning_rate);
    idle = size == 0;
    if (idle) return;
    ++k;
    d_numerator = beta3 * d_numerator + d / options.d0 * rate * carried;
    if (!(learning_rate > 0)) return;
    const double now = options.d_coef * d_numerator / size;
    if (d == options.d0 && now > d) d = now;
    d_max = now > d_max ? now : d_max;
    const double most = d * options.growth_rate;
    d = d_max < most ? d_max : most;
  }
  static Tensor make(double d0, Device device);  // i64, by their bits
  static ProdigyNumbers* in(const Tensor& numbers) { return reinterpret_cast<ProdigyNumbers*>(numbers.raw()); }
};

// What the gradients do to the averages, and what the estimate sees of it.
struct ProdigyTakeIn {
  float scale, keep1, toward1, keep2, toward2, keep3, toward3, coupled;

  static FLAME_SCALAR ProdigyTakeIn of(const ProdigyOptions& options, double decay, double beta3, double learning_rate,
                                       const ProdigyNumbers& numbers, float scale) {
    const double d = numbers.d, rate = numbers.step_rate(options, learning_rate);
    return {scale,
            static_cast<float>(options.beta1),
            static_cast<float>(d * (1 - options.beta1)),
            static_cast<float>(options.beta2),
            static_cast<float>(d * d * (1 - options.beta2)),
            static_cast<float>(beta3),
            static_cast<float>(d / options.d0 * (options.safeguard_warmup ? d : rate)),
            static_cast<float>(options.decouple ? 0 : options.weight_decay * decay)};
  }

  FLAME_SCALAR void operator()(float value, float raw_gradient, float start, float& exp_avg, float& exp_avg_sq,
                               float& s, double& carried, double& size) const {
    const float gradient = scale * raw_gradient + coupled * value;
    carried += static_cast<double>(gradient) * static_cast<double>(start - value);
    exp_avg = keep1 * exp_avg + toward1 * gradient;
    exp_avg_sq = keep2 * exp_avg_sq + toward2 * gradient * gradient;
    s = keep3 * s + toward3 * gradient;
    size += static_cast<double>(std::fabs(s));
  }
};

// One group's: f32.
struct ProdigyBuffers {
  Tensor values, gradients, start, exp_avg, exp_avg_sq, s;
};

// How many sums a group of so many elements is made of: two doubles each.
constexpr int64_t prodigy_sums = 512;

}  // namespace flame

// take_in writes a group's sums; estimate reads those of all groups. Neither does anything in a step that is skipped.
namespace flame::cpu {
void prodigy_take_in(const ProdigyBuffers& buffers, const ProdigyOptions& options, double lr, double decay,
                     const Tensor& state, const Tensor& numbers, const Tensor& sums);
void prodigy_estimate(const ProdigyOptions& options, double lr, const Tensor& state, const Tensor& sums,
                      const Tensor& numbers);
}  // namespace flame::cpu
namespace flame::cuda {
void prodigy_take_in(const ProdigyBuffers& buffers, const ProdigyOptions& options, double lr, double decay,
                     const Tensor& state, const Tensor& numbers, const Tensor& sums);
void prodigy_estimate(const ProdigyOptions& options, double lr, const Tensor& state, const Tensor& sums,
                      const Tensor& numbers);
}  // namespace flame::cuda
