#pragma once

#include <cstdint>
#include <vector>

#include "flame/core/tensor.h"

namespace eri {

using flame::Tensor;

enum class Prediction { epsilon, v };

// DDPM's forward process in 1000 steps: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, with Stable Diffusion's
// scaled-linear betas (0.00085 to 0.012). One value a timestep, in double.
class NoiseSchedule {
 public:
  static constexpr int64_t steps = 1000;

  // zero_terminal_snr rescales it so that the last step is pure noise (Lin et al., arXiv:2305.08891). add_noise() and
  // target() are for tensors on `device`.
  explicit NoiseSchedule(bool zero_terminal_snr = false, flame::Device device = flame::Device::cpu());

  const std::vector<double>& betas() const { return betas_; }
  const std::vector<double>& alphas_cumprod() const { return alphas_cumprod_; }
  std::vector<double> snr() const;     // a / (1 - a)
  std::vector<double> sigmas() const;  // 1 / sqrt(snr)

  // x0 and noise [N, ...], timesteps [N] (i32 or i64).
  Tensor add_noise(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const;
  Tensor velocity(const Tensor& x0, const Tensor& noise,
                  const Tensor& timesteps) const;  // sqrt(a) noise - sqrt(1-a) x0
  Tensor target(Prediction prediction, const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const;

 private:
  void rescale();

  std::vector<double> betas_, alphas_cumprod_;
  Tensor signal_, noise_, minus_noise_;  // [1000]: sqrt(a), sqrt(1 - a), -sqrt(1 - a)
};

// Loss weights, one a timestep.
// min(snr, gamma) / snr for epsilon, / (snr + 1) for v (Hang et al., arXiv:2303.09556).
std::vector<double> min_snr_weights(const NoiseSchedule& schedule, double gamma, Prediction prediction);
// 1 / sqrt(min(snr, 1000)) for epsilon, 1 / (min(snr, 1000) + 1) for v: sd-scripts' debiased estimation.
std::vector<double> debiased_weights(const NoiseSchedule& schedule, Prediction prediction);
// snr / (snr + 1), snr at most 1000: sd-scripts' scale_v_pred_loss_like_noise_pred.
std::vector<double> v_like_noise_weights(const NoiseSchedule& schedule);

// One value a timestep as f32 [count] on a device, made once, and table[timesteps], f32 [N].
Tensor timestep_table(const std::vector<double>& values, flame::Device device);
Tensor at_timesteps(const Tensor& table, const Tensor& timesteps);

}  // namespace eri
