#include "eri/diffusion/samplers.h"

#include <algorithm>
#include <cmath>

#include "flame/ops/pointwise.h"

namespace eri {

Denoiser::Denoiser(const NoiseSchedule& schedule, Prediction prediction)
    : sigmas_(schedule.sigmas()), prediction_(prediction) {
  // Zero terminal SNR would be an infinite sigma; ComfyUI puts this alpha in its place.
  constexpr double smallest_alpha = 4.8973451890853435e-08;
  if (std::isinf(sigmas_.back())) sigmas_.back() = std::sqrt((1 - smallest_alpha) / smallest_alpha);
}

double Denoiser::sigma(double timestep) const {
  const double bounded = std::clamp(timestep, 0.0, static_cast<double>(sigmas_.size() - 1));
  const auto low = static_cast<size_t>(bounded), high = std::min(low + 1, sigmas_.size() - 1);
  const double part = bounded - static_cast<double>(low);
  return std::exp((1 - part) * std::log(sigmas_[low]) + part * std::log(sigmas_[high]));
}

int64_t Denoiser::timestep(double sigma) const {
  const auto distance = [log_sigma = std::log(sigma)](double s) { return std::fabs(std::log(s) - log_sigma); };
  const auto nearest =
      std::min_element(sigmas_.begin(), sigmas_.end(), [&](double a, double b) { return distance(a) < distance(b); });
  return nearest - sigmas_.begin();
}

Tensor Denoiser::scaled_input(const Tensor& x, double sigma) const {
  return x * static_cast<float>(1 / std::sqrt(sigma * sigma + 1));
}

Tensor Denoiser::denoised(const Tensor& x, const Tensor& prediction, double sigma) const {
  if (prediction_ == Prediction::epsilon) return x - prediction * static_cast<float>(sigma);
  const double scale = sigma * sigma + 1;
  return x * static_cast<float>(1 / scale) - prediction * static_cast<float>(sigma / std::sqrt(scale));
}

Tensor Denoiser::start(const Tensor& noise, double first_sigma) const {
  const bool from_pure_noise = first_sigma >= sigma_max() * (1 - 1e-5);
  return noise * static_cast<float>(from_pure_noise ? std::sqrt(1 + first_sigma * first_sigma) : first_sigma);
}

std::vector<double> normal_schedule(const Denoiser& denoiser, int steps) {
  flame::require(steps >= 1, "normal_schedule", "expected at least 1 step, got ", steps);
  const double last = static_cast<double>(denoiser.sigmas().size() - 1);
  std::vector<double> sigmas;
  for (int i = 0; i < steps; ++i) sigmas.push_back(denoiser.sigma(steps > 1 ? last * (1 - i / (steps - 1.0)) : last));
  sigmas.push_back(0);
  return sigmas;
}

Tensor sample_euler(Tensor x, const std::vector<double>& sigmas, const Estimate& estimate, const OnStep& on_step) {
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const Tensor denoised = estimate(x, sigmas[i]);
    const Tensor slope = (x - denoised) * static_cast<float>(1 / sigmas[i]);
    x = x + slope * static_cast<float>(sigmas[i + 1] - sigmas[i]);
    if (on_step) on_step(static_cast<int>(i), x, denoised);
  }
  return x;
}

}  // namespace eri
