#include "eri/diffusion/samplers.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

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

Denoiser::Factors Denoiser::factors(double sigma) const {
  const double scale = sigma * sigma + 1;
  const auto input = static_cast<float>(1 / std::sqrt(scale));
  if (prediction_ == Prediction::epsilon) return {input, 1, static_cast<float>(sigma)};
  return {input, static_cast<float>(1 / scale), static_cast<float>(sigma / std::sqrt(scale))};
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

namespace {

// --- schedules: each gives the levels before the final 0 ---

// `count` timesteps evenly from the last to 0, of which the first `steps` are used.
std::vector<double> even_timesteps(const Denoiser& denoiser, int steps, int count) {
  const double last = static_cast<double>(denoiser.sigmas().size() - 1);
  std::vector<double> sigmas;
  for (int i = 0; i < steps; ++i) sigmas.push_back(denoiser.sigma(count > 1 ? last * (1 - i / (count - 1.0)) : last));
  return sigmas;
}

std::vector<double> normal(const Denoiser& denoiser, int steps) { return even_timesteps(denoiser, steps, steps); }

std::vector<double> sgm_uniform(const Denoiser& denoiser, int steps) {
  return even_timesteps(denoiser, steps, steps + 1);
}

std::vector<double> simple(const Denoiser& denoiser, int steps) {
  const auto& all = denoiser.sigmas();
  std::vector<double> sigmas;
  for (int i = 0; i < steps; ++i) sigmas.push_back(all[all.size() - 1 - static_cast<size_t>(i) * all.size() / steps]);
  return sigmas;
}

std::vector<double> karras(const Denoiser& denoiser, int steps) {
  constexpr double rho = 7;
  const double high = std::pow(denoiser.sigma_max(), 1 / rho), low = std::pow(denoiser.sigma_min(), 1 / rho);
  std::vector<double> sigmas;
  for (int i = 0; i < steps; ++i)
    sigmas.push_back(std::pow(steps > 1 ? high + (low - high) * i / (steps - 1.0) : high, rho));
  return sigmas;
}

std::vector<double> ddim_uniform(const Denoiser& denoiser, int steps) {
  const auto& all = denoiser.sigmas();
  const size_t stride = std::max<size_t>(all.size() / static_cast<size_t>(steps), 1);
  std::vector<double> sigmas;
  for (size_t t = 1; t < all.size(); t += stride) sigmas.push_back(all[t]);
  return {sigmas.rbegin(), sigmas.rend()};
}

constexpr std::pair<std::string_view, std::vector<double> (*)(const Denoiser&, int)> schedules[] = {
    {"normal", normal}, {"sgm_uniform", sgm_uniform},   {"simple", simple},
    {"karras", karras}, {"ddim_uniform", ddim_uniform},
};

// --- samplers: each is one step from sigma to next ---

struct Step {
  double sigma, next;
  const Tensor &x, &denoised;
  Tensor before;  // the estimate of the step before; none in the first
  double sigma_before;
  std::function<Tensor()> noise;
};

// a x + b y
Tensor mix(double a, const Tensor& x, double b, const Tensor& y) {
  return x * static_cast<float>(a) + y * static_cast<float>(b);
}

Tensor euler(const Step& s) { return mix(s.next / s.sigma, s.x, 1 - s.next / s.sigma, s.denoised); }

// As far down as noise to climb back to `next` leaves room for.
Tensor euler_ancestral(const Step& s) {
  if (s.next == 0) return s.denoised;
  const double up = std::min(s.next, s.next * std::sqrt(1 - s.next * s.next / (s.sigma * s.sigma)));
  const double down = std::sqrt(s.next * s.next - up * up);
  return mix(1, mix(down / s.sigma, s.x, 1 - down / s.sigma, s.denoised), up, s.noise());
}

// Second order in h = log(sigma / next), with the estimate before as the other point.
Tensor dpmpp_2m(const Step& s) {
  if (s.next == 0) return s.denoised;
  const double h = std::log(s.sigma / s.next), part = -std::expm1(-h);
  if (!s.before.defined()) return mix(s.next / s.sigma, s.x, part, s.denoised);
  const double half = h / (2 * std::log(s.sigma_before / s.sigma));
  return mix(s.next / s.sigma, s.x, part, mix(1 + half, s.denoised, -half, s.before));
}

// The same for the stochastic equation: twice as far, and back with noise.
Tensor dpmpp_2m_sde(const Step& s) {
  if (s.next == 0) return s.denoised;
  const double h = std::log(s.sigma / s.next), part = -std::expm1(-2 * h);
  Tensor x = mix(s.next / s.sigma * std::exp(-h), s.x, part, s.denoised);
  if (s.before.defined()) {
    const double half = part * h / (2 * std::log(s.sigma_before / s.sigma));
    x = x + mix(half, s.denoised, -half, s.before);
  }
  return mix(1, x, s.next * std::sqrt(part), s.noise());
}

constexpr std::pair<std::string_view, Tensor (*)(const Step&)> samplers[] = {
    {"euler", euler},
    {"ddim", euler},
    {"dpmpp_2m", dpmpp_2m},
    {"euler_ancestral", euler_ancestral},
    {"dpmpp_2m_sde", dpmpp_2m_sde},
};

template <class Table>
auto find(const Table& table, const char* kind, std::string_view name) {
  std::string known;
  for (const auto& [own_name, function] : table) {
    if (own_name == name) return function;
    known += (known.empty() ? "" : ", ") + std::string(own_name);
  }
  flame::fail("there is no ", kind, " '", name, "': expected one of ", known);
}

}  // namespace

std::vector<double> schedule_sigmas(std::string_view name, const Denoiser& denoiser, int steps) {
  flame::require(steps >= 1, "schedule", "expected at least 1 step, got ", steps);
  std::vector<double> sigmas = find(schedules, "schedule", name)(denoiser, steps);
  sigmas.push_back(0);
  return sigmas;
}

Tensor run_sampler(std::string_view name, const Tensor& x, const std::vector<double>& sigmas, const Estimate& estimate,
                   const StepNoise& noise, const OnStep& on_step) {
  const auto step = find(samplers, "sampler", name);
  Tensor now = x, before;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const int index = static_cast<int>(i);
    const Tensor denoised = estimate(now, sigmas[i]);
    now = step({sigmas[i], sigmas[i + 1], now, denoised, before, i ? sigmas[i - 1] : 0, [&] { return noise(index); }});
    if (on_step) on_step(index, now, denoised);
    before = denoised;
  }
  return now;
}

}  // namespace eri
