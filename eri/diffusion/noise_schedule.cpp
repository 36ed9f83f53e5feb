#include "eri/diffusion/noise_schedule.h"

#include <algorithm>
#include <cmath>

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

template <class F>
std::vector<double> map(const std::vector<double>& values, const F& f) {
  std::vector<double> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), f);
  return result;
}

// a x + b y, with one a and b a sample.
Tensor mix(const Tensor& a, const Tensor& x, const Tensor& b, const Tensor& y, const Tensor& timesteps) {
  flame::Shape column = x.shape();
  for (int i = 1; i < column.rank(); ++i) column = column.with(i, 1);
  const auto factor = [&](const Tensor& table) {
    return flame::cast(at_timesteps(table, timesteps), x.dtype()).view(column);
  };
  return factor(a) * x + factor(b) * y;
}

}  // namespace

NoiseSchedule::NoiseSchedule(bool zero_terminal_snr, flame::Device device) : betas_(steps), alphas_cumprod_(steps) {
  const double first = std::sqrt(0.00085), last = std::sqrt(0.012);
  double product = 1;
  for (int64_t t = 0; t < steps; ++t) {
    const double root = first + (last - first) * static_cast<double>(t) / (steps - 1);
    betas_[t] = root * root;
    alphas_cumprod_[t] = product *= 1 - betas_[t];
  }
  if (zero_terminal_snr) rescale();
  const auto table = [&](const auto& f) { return timestep_table(map(alphas_cumprod_, f), device); };
  signal_ = table([](double a) { return std::sqrt(a); });
  noise_ = table([](double a) { return std::sqrt(1 - a); });
  minus_noise_ = table([](double a) { return -std::sqrt(1 - a); });
}

// sqrt(a) is shifted so that it ends at 0 and scaled so that it starts where it did.
void NoiseSchedule::rescale() {
  const double start = std::sqrt(alphas_cumprod_.front()), end = std::sqrt(alphas_cumprod_.back());
  for (int64_t t = 0; t < steps; ++t) {
    const double root = (std::sqrt(alphas_cumprod_[t]) - end) * (start / (start - end));
    alphas_cumprod_[t] = root * root;
    betas_[t] = 1 - (t ? alphas_cumprod_[t] / alphas_cumprod_[t - 1] : alphas_cumprod_[t]);
  }
}

std::vector<double> NoiseSchedule::snr() const {
  return map(alphas_cumprod_, [](double a) { return a / (1 - a); });
}

std::vector<double> NoiseSchedule::sigmas() const {
  return map(alphas_cumprod_, [](double a) { return std::sqrt((1 - a) / a); });
}

Tensor NoiseSchedule::add_noise(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const {
  return mix(signal_, x0, noise_, noise, timesteps);
}

Tensor NoiseSchedule::velocity(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const {
  return mix(signal_, noise, minus_noise_, x0, timesteps);
}

Tensor NoiseSchedule::target(Prediction prediction, const Tensor& x0, const Tensor& noise,
                             const Tensor& timesteps) const {
  return prediction == Prediction::epsilon ? noise : velocity(x0, noise, timesteps);
}

std::vector<double> min_snr_weights(const NoiseSchedule& schedule, double gamma, Prediction prediction) {
  return map(schedule.snr(), [=](double snr) {
    if (prediction == Prediction::v) return std::min(snr, gamma) / (snr + 1);
    return snr > 0 ? std::min(snr, gamma) / snr : 1;  // the limit, where all is noise
  });
}

std::vector<double> debiased_weights(const NoiseSchedule& schedule, Prediction prediction) {
  return map(schedule.snr(), [=](double snr) {
    const double bounded = std::min(snr, 1000.0);
    return prediction == Prediction::v ? 1 / (bounded + 1) : 1 / std::sqrt(bounded);
  });
}

std::vector<double> v_like_noise_weights(const NoiseSchedule& schedule) {
  return map(schedule.snr(), [](double snr) {
    const double bounded = std::min(snr, 1000.0);
    return bounded / (bounded + 1);
  });
}

Tensor timestep_table(const std::vector<double>& values, flame::Device device) {
  const std::vector<float> single(values.begin(), values.end());
  return Tensor::from(single, {static_cast<int64_t>(single.size())}, device);
}

Tensor at_timesteps(const Tensor& table, const Tensor& timesteps) {
  return flame::embedding(table.view({table.numel(), 1}), timesteps).view({timesteps.numel()});
}

}  // namespace eri
