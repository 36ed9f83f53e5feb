#pragma once

#include <vector>

#include "eri/diffusion/noise_schedule.h"

namespace eri {

// A model trained on discrete timesteps, seen as a denoiser at any noise level sigma, as ComfyUI does it: the timestep
// is the one with the nearest log sigma, the input x / sqrt(sigma^2 + 1). Levels are single numbers (f32), as there.
class Denoiser {
 public:
  Denoiser(const NoiseSchedule& schedule, Prediction prediction);

  double sigma_min() const { return sigmas_.front(); }
  double sigma_max() const { return sigmas_.back(); }
  const std::vector<double>& sigmas() const { return sigmas_; }  // one a timestep, rising
  double sigma(double timestep) const;                           // linear in log sigma between two timesteps
  int64_t timestep(double sigma) const;

  // The model sees input * x; the estimate of x0 is noisy * x - predicted * prediction. What a model of v would have
  // predicted is velocity_noisy * x + velocity_predicted * prediction, and x0 from that noisy_v * x - predicted_v * v.
  struct Factors {
    float input, noisy, predicted, velocity_noisy, velocity_predicted, noisy_v, predicted_v;
  };
  Factors factors(double sigma) const;
  Tensor scaled_input(const Tensor& x, double sigma) const;
  Tensor denoised(const Tensor& x, const Tensor& prediction, double sigma) const;  // the estimate of x0

  // What sampling starts from: unit noise times sqrt(1 + sigma^2) at the highest noise level, else times sigma.
  Tensor start(const Tensor& noise, double first_sigma) const;

 private:
  std::vector<double> sigmas_;
  std::vector<float> log_sigmas_;
  Prediction prediction_;
};

}  // namespace eri
