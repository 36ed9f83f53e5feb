#include "eri/diffusion/sigma_schedules.h"

#include <algorithm>
#include <cmath>

#include "eri/diffusion/beta_distribution.h"
#include "eri/diffusion/named.h"

namespace eri {
namespace {

using Sigmas = std::vector<double>;

// `count` values evenly from first to last in single precision, each half reckoned from its end: torch.linspace.
std::vector<float> linspace(float first, float last, int count) {
  std::vector<float> values(count, first);
  const float step = count > 1 ? (last - first) / static_cast<float>(count - 1) : 0;
  for (int i = 0; i < count; ++i) {
    const bool first_half = i < count / 2 || count == 1;
    values[i] = first_half ? std::fma(step, static_cast<float>(i), first)
                           : std::fma(-step, static_cast<float>(count - 1 - i), last);
  }
  return values;
}

// The levels of the first `steps` of `count` timesteps, evenly from the last to 0.
Sigmas even_timesteps(const Denoiser& denoiser, int steps, int count) {
  Sigmas sigmas;
  const auto timesteps = linspace(static_cast<float>(denoiser.sigmas().size() - 1), 0, count);
  for (int i = 0; i < steps; ++i) sigmas.push_back(denoiser.sigma(timesteps[i]));
  return sigmas;
}

// --- each gives the levels before the final 0 ---

Sigmas normal(const Denoiser& denoiser, int steps) { return even_timesteps(denoiser, steps, steps); }

Sigmas sgm_uniform(const Denoiser& denoiser, int steps) { return even_timesteps(denoiser, steps, steps + 1); }

Sigmas simple(const Denoiser& denoiser, int steps) {
  const Sigmas& all = denoiser.sigmas();
  const double stride = static_cast<double>(all.size()) / steps;
  Sigmas sigmas;
  for (int i = 0; i < steps; ++i) sigmas.push_back(all[all.size() - 1 - static_cast<size_t>(i * stride)]);
  return sigmas;
}

// `steps` values evenly from one to the other; product and sum are each rounded to single precision.
std::vector<float> ramp(double first, double last, int steps) {
  std::vector<float> values;
  const auto begin = static_cast<float>(first), range = static_cast<float>(last - first);
  for (float part : linspace(0, 1, steps)) {
    const float way = part * range;
    values.push_back(begin + way);
  }
  return values;
}

Sigmas karras(const Denoiser& denoiser, int steps) {
  constexpr double rho = 7;
  Sigmas sigmas;
  for (float root : ramp(std::pow(denoiser.sigma_max(), 1 / rho), std::pow(denoiser.sigma_min(), 1 / rho), steps))
    sigmas.push_back(std::pow(root, rho));
  return sigmas;
}

Sigmas exponential(const Denoiser& denoiser, int steps) {
  Sigmas sigmas;
  const double first = std::log(denoiser.sigma_max()), last = std::log(denoiser.sigma_min());
  for (float log_sigma : linspace(static_cast<float>(first), static_cast<float>(last), steps))
    sigmas.push_back(std::exp(log_sigma));
  return sigmas;
}

Sigmas ddim_uniform(const Denoiser& denoiser, int steps) {
  const Sigmas& all = denoiser.sigmas();
  const size_t stride = std::max<size_t>(all.size() / static_cast<size_t>(steps), 1);
  Sigmas sigmas;
  for (size_t t = 1; t < all.size(); t += stride) sigmas.push_back(all[t]);
  return {sigmas.rbegin(), sigmas.rend()};
}

// Timesteps crowded at both ends, where most of a picture is decided: quantiles of Beta(0.6, 0.6), arXiv:2407.12173. A
// timestep that comes twice is taken once.
Sigmas beta(const Denoiser& denoiser, int steps) {
  const Sigmas& all = denoiser.sigmas();
  Sigmas sigmas;
  double before = -1;
  for (int i = 0; i < steps; ++i) {
    const double quantile = beta_quantile(1 - static_cast<double>(i) / steps, 0.6, 0.6);
    const double timestep = std::nearbyint(quantile * static_cast<double>(all.size() - 1));
    if (timestep != before) sigmas.push_back(all[static_cast<size_t>(timestep)]);
    before = timestep;
  }
  return sigmas;
}

struct Schedule {
  std::string_view name;
  Sigmas (*levels)(const Denoiser&, int steps);
};
constexpr Schedule schedules[] = {
    {"normal", normal},
    {"karras", karras},
    {"exponential", exponential},
    {"sgm_uniform", sgm_uniform},
    {"simple", simple},
    {"ddim_uniform", ddim_uniform},
    {"beta", beta},
};

}  // namespace

Sigmas schedule_sigmas(std::string_view name, const Denoiser& denoiser, int steps) {
  flame::require(steps >= 1, "schedule", "expected at least 1 step, got ", steps);
  Sigmas sigmas = find_named(schedules, "scheduler", name).levels(denoiser, steps);
  for (double& sigma : sigmas) sigma = static_cast<float>(sigma);
  sigmas.push_back(0);
  return sigmas;
}

Sigmas sampler_sigmas(std::string_view sampler, std::string_view schedule, const Denoiser& denoiser, int steps) {
  if (!sampler.starts_with("uni_pc")) return schedule_sigmas(schedule, denoiser, steps);
  Sigmas sigmas = schedule_sigmas(schedule, denoiser, steps + 1);
  if (sigmas.size() > 2) sigmas.erase(sigmas.end() - 2);
  return sigmas;
}

const std::vector<std::string>& schedule_names() {
  static const std::vector<std::string> names = names_of(schedules);
  return names;
}

}  // namespace eri
