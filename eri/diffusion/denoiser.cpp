#include "eri/diffusion/denoiser.h"

#include <algorithm>
#include <cmath>

#include "flame/ops/pointwise.h"

namespace eri {
namespace {

// Rounded once: what a good library's single-precision function gives.
float single_log(double x) { return static_cast<float>(std::log(x)); }
float single_exp(double x) { return static_cast<float>(std::exp(x)); }

}  // namespace

Denoiser::Denoiser(const NoiseSchedule& schedule, Prediction prediction)
    : sigmas_(schedule.sigmas()), prediction_(prediction) {
  // Zero terminal SNR would be an infinite sigma; ComfyUI puts this alpha in its place.
  constexpr double smallest_alpha = 4.8973451890853435e-08;
  if (std::isinf(sigmas_.back())) sigmas_.back() = std::sqrt((1 - smallest_alpha) / smallest_alpha);
  for (double& sigma : sigmas_) {
    log_sigmas_.push_back(single_log(sigma));
    sigma = static_cast<float>(sigma);
  }
}

double Denoiser::sigma(double timestep) const {
  const float bounded = static_cast<float>(std::clamp(timestep, 0.0, static_cast<double>(sigmas_.size() - 1)));
  const auto low = static_cast<size_t>(bounded), high = static_cast<size_t>(std::ceil(bounded));
  const float part = bounded - static_cast<float>(low);
  const float below = (1 - part) * log_sigmas_[low], above = part * log_sigmas_[high];
  return single_exp(below + above);
}

int64_t Denoiser::timestep(double sigma) const {
  const float log_sigma = single_log(sigma);
  const auto nearest = std::min_element(log_sigmas_.begin(), log_sigmas_.end(), [&](float a, float b) {
    return std::fabs(log_sigma - a) < std::fabs(log_sigma - b);
  });
  return nearest - log_sigmas_.begin();
}

Denoiser::Factors Denoiser::factors(double sigma) const {
  const double scale = sigma * sigma + 1, root = std::sqrt(scale);
  const auto single = [](double x) { return static_cast<float>(x); };
  const float input = single(1 / root), noisy_v = single(1 / scale), predicted_v = single(sigma / root);
  if (prediction_ == Prediction::epsilon)
    return {input, 1, single(sigma), single(-sigma / root), single(root), noisy_v, predicted_v};
  return {input, noisy_v, predicted_v, 0, 1, noisy_v, predicted_v};
}

Tensor Denoiser::scaled_input(const Tensor& x, double sigma) const { return x * factors(sigma).input; }

Tensor Denoiser::denoised(const Tensor& x, const Tensor& prediction, double sigma) const {
  const Factors f = factors(sigma);
  return x * f.noisy - prediction * f.predicted;
}

Tensor Denoiser::start(const Tensor& noise, double first_sigma) const {
  const bool from_pure_noise = first_sigma >= sigma_max() * (1 - 1e-5);
  return noise * static_cast<float>(from_pure_noise ? std::sqrt(1 + first_sigma * first_sigma) : first_sigma);
}

}  // namespace eri
