#pragma once

#include <functional>
#include <vector>

#include "eri/diffusion/noise_schedule.h"

namespace eri {

// A model trained on discrete timesteps, seen as a denoiser at any noise level sigma, as ComfyUI does it: the timestep
// is the one with the nearest log sigma, the input x / sqrt(sigma^2 + 1).
class Denoiser {
 public:
  Denoiser(const NoiseSchedule& schedule, Prediction prediction);

  double sigma_min() const { return sigmas_.front(); }
  double sigma_max() const { return sigmas_.back(); }
  const std::vector<double>& sigmas() const { return sigmas_; }  // one a timestep, rising
  double sigma(double timestep) const;                           // linear in log sigma between two timesteps
  int64_t timestep(double sigma) const;

  Tensor scaled_input(const Tensor& x, double sigma) const;
  Tensor denoised(const Tensor& x, const Tensor& prediction, double sigma) const;  // the estimate of x0

  // What sampling starts from: unit noise times sqrt(1 + sigma^2) at the highest noise level, else times sigma.
  Tensor start(const Tensor& noise, double first_sigma) const;

 private:
  std::vector<double> sigmas_;
  Prediction prediction_;
};

// ComfyUI's `normal` schedule: `steps` timesteps evenly from 999 to 0, then 0. steps + 1 values, falling.
std::vector<double> normal_schedule(const Denoiser& denoiser, int steps);

// x0's guided estimate at (x, sigma).
using Estimate = std::function<Tensor(const Tensor& x, double sigma)>;
// Called after step k with x and the estimate that made it.
using OnStep = std::function<void(int step, const Tensor& x, const Tensor& denoised)>;

// Euler's method on dx/dsigma = (x - denoised) / sigma (Karras et al., arXiv:2206.00364), from sigmas.front() to 0.
Tensor sample_euler(Tensor x, const std::vector<double>& sigmas, const Estimate& estimate, const OnStep& on_step = {});

}  // namespace eri
