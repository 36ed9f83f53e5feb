#include "flame/optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "flame/device/parallel.h"

namespace flame {

AdamW::AdamW(ParameterPack pack, const Options& options) : Optimizer(std::move(pack)), options_(options) {
  PurposeScope purpose(Purpose::optimizer);
  const Tensor& values = this->pack().values();
  exp_avg_ = Tensor::zeros(values.shape(), DType::f32, values.device());
  exp_avg_sq_ = Tensor::zeros(values.shape(), DType::f32, values.device());
}

NamedTensors AdamW::state() const { return {{"exp_avg", exp_avg_}, {"exp_avg_sq", exp_avg_sq_}}; }

void AdamW::update(double learning_rate, float scale, int64_t step) {
  require(pack().values().device().is_cpu(), "AdamW", "no kernel for ", pack().values().device());
  const auto [beta1, beta2, eps, weight_decay] = options_;
  const double correction1 = 1 - std::pow(beta1, step), correction2 = 1 - std::pow(beta2, step);
  const float keep = static_cast<float>(1 - learning_rate * weight_decay);
  const float step_size = static_cast<float>(learning_rate / correction1);
  const float root = static_cast<float>(std::sqrt(correction2)), epsilon = static_cast<float>(eps);
  const float toward1 = static_cast<float>(1 - beta1), keep2 = static_cast<float>(beta2);
  const float toward2 = static_cast<float>(1 - beta2);
  float* const values = pack().values().data<float>();
  const float* const gradients = pack().gradients().data<float>();
  float* const exp_avg = exp_avg_.data<float>();
  float* const exp_avg_sq = exp_avg_sq_.data<float>();
  // Blocks of fixed size: where the vector loop ends, and with it rounding, must not depend on the number of threads.
  constexpr int64_t block = 1 << 14;
  const int64_t count = pack().numel();
  parallel_for((count + block - 1) / block, 1, [=](int64_t first, int64_t last) {
#pragma omp simd
    for (int64_t i = first * block; i < std::min(last * block, count); ++i) {
      const float gradient = scale * gradients[i];
      const float m = exp_avg[i] + toward1 * (gradient - exp_avg[i]);
      const float v = keep2 * exp_avg_sq[i] + toward2 * gradient * gradient;
      exp_avg[i] = m;
      exp_avg_sq[i] = v;
      values[i] = keep * values[i] - step_size * m / (std::sqrt(v) / root + epsilon);
    }
  });
}

}  // namespace flame
