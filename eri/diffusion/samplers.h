#pragma once

#include <functional>
#include <string_view>
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

  // The model sees input * x; the estimate of x0 is noisy * x - predicted * prediction.
  struct Factors {
    float input, noisy, predicted;
  };
  Factors factors(double sigma) const;
  Tensor scaled_input(const Tensor& x, double sigma) const;
  Tensor denoised(const Tensor& x, const Tensor& prediction, double sigma) const;  // the estimate of x0

  // What sampling starts from: unit noise times sqrt(1 + sigma^2) at the highest noise level, else times sigma.
  Tensor start(const Tensor& noise, double first_sigma) const;

 private:
  std::vector<double> sigmas_;
  Prediction prediction_;
};

// Noise levels from the first step's to 0, under ComfyUI's names: normal, sgm_uniform, simple, karras, ddim_uniform.
// steps + 1 falling values; ddim_uniform may give one more. Throws for an unknown name, listing the known ones.
std::vector<double> schedule_sigmas(std::string_view name, const Denoiser& denoiser, int steps);

// x0's guided estimate at (x, sigma).
using Estimate = std::function<Tensor(const Tensor& x, double sigma)>;
// Unit noise for step k, shaped like x; asked for by samplers that add some.
using StepNoise = std::function<Tensor(int step)>;
// Called after step k with x and the estimate that made it.
using OnStep = std::function<void(int step, const Tensor& x, const Tensor& denoised)>;

// From x at sigmas.front() to the picture, under ComfyUI's names: euler and ddim (the same thing from pure noise),
// euler_ancestral (eta 1), dpmpp_2m, dpmpp_2m_sde (midpoint, eta 1). Karras et al., arXiv:2206.00364; Lu et al.,
// DPM-Solver++, arXiv:2211.01095. Throws for an unknown name, listing the known ones.
Tensor run_sampler(std::string_view name, const Tensor& x, const std::vector<double>& sigmas, const Estimate& estimate,
                   const StepNoise& noise = {}, const OnStep& on_step = {});

}  // namespace eri
