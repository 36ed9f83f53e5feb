#include "eri/diffusion/samplers.h"

#include <algorithm>
#include <cmath>

#include "eri/diffusion/named.h"
#include "eri/diffusion/uni_pc.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

// One step from sigma to next.
struct Step {
  double sigma, next;
  const Tensor &x, &denoised;
  Tensor before;  // the estimate of the step before; none in the first
  double sigma_before;
  const Estimate& estimate;
  const StepNoise& noise;
};

// a x + b y
Tensor mix(double a, const Tensor& x, double b, const Tensor& y) {
  return x * static_cast<float>(a) + y * static_cast<float>(b);
}

// Straight towards the estimate.
Tensor towards(const Tensor& x, const Tensor& denoised, double sigma, double next) {
  return mix(next / sigma, x, 1 - next / sigma, denoised);
}

Tensor euler(const Step& s) { return towards(s.x, s.denoised, s.sigma, s.next); }

// The mean of the slopes at both ends.
Tensor heun(const Step& s) {
  const Tensor there = euler(s);
  if (s.next == 0) return there;
  const Tensor slope = (s.x - s.denoised) * static_cast<float>(1 / s.sigma);
  const Tensor slope_there = (there - s.estimate(there, s.next)) * static_cast<float>(1 / s.next);
  return mix(1, s.x, (s.next - s.sigma) / 2, slope + slope_there);
}

// How far down a step goes, so that noise of size `up` leads back to `next`.
struct Ancestral {
  double up, down;
  Ancestral(double sigma, double next)
      : up(std::min(next, next * std::sqrt(1 - next * next / (sigma * sigma)))),
        down(std::sqrt(next * next - up * up)) {}
};

Tensor ancestral(const Step& s, const Tensor& denoised, double next) {
  const auto [up, down] = Ancestral(s.sigma, next);
  return mix(1, towards(s.x, denoised, s.sigma, down), up, s.noise(s.sigma, next));
}

Tensor euler_ancestral(const Step& s) { return s.next == 0 ? s.denoised : ancestral(s, s.denoised, s.next); }

// Halfway in log sigma; in single precision, as ComfyUI has it, because the noise depends on it.
double halfway_between(double sigma, double next) {
  const float from = -std::log(static_cast<float>(sigma)), to = -std::log(static_cast<float>(next));
  return std::exp(-(from + 0.5f * (to - from)));
}

// With a better estimate for the whole way, made halfway.
Tensor dpmpp_sde(const Step& s) {
  if (s.next == 0) return s.denoised;
  const double halfway = halfway_between(s.sigma, s.next);
  const Tensor there = ancestral(s, s.denoised, halfway);
  return ancestral(s, s.estimate(there, halfway), s.next);
}

// Second order in h = log(sigma / next), with the estimate before as the other point.
Tensor dpmpp_2m(const Step& s) {
  if (s.next == 0 || !s.before.defined()) return euler(s);
  const double h = std::log(s.sigma / s.next), half = h / (2 * std::log(s.sigma_before / s.sigma));
  return towards(s.x, mix(1 + half, s.denoised, -half, s.before), s.sigma, s.next);
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
  return mix(1, x, s.next * std::sqrt(part), s.noise(s.sigma, s.next));
}

Tensor lcm(const Step& s) { return s.next == 0 ? s.denoised : mix(1, s.denoised, s.next, s.noise(s.sigma, s.next)); }

// What a sampler does in a step; a run has its own, which may remember steps before.
using TakeStep = std::function<Tensor(const Step&)>;

template <Tensor (*step)(const Step&)>
TakeStep plain(const std::vector<double>&) {
  return step;
}

template <UniPC::Variant variant>
TakeStep uni_pc(const std::vector<double>& sigmas) {
  return [solver = UniPC(variant, sigmas)](const Step& s) mutable { return solver.step(s.x, s.denoised); };
}

struct Sampler {
  std::string_view name;
  NoiseKind noise;
  TakeStep (*begin)(const std::vector<double>& sigmas);
};
constexpr Sampler samplers[] = {
    {"euler", NoiseKind::none, plain<euler>},
    {"euler_ancestral", NoiseKind::independent, plain<euler_ancestral>},
    {"heun", NoiseKind::none, plain<heun>},
    {"dpmpp_2m", NoiseKind::none, plain<dpmpp_2m>},
    {"dpmpp_2m_sde", NoiseKind::brownian, plain<dpmpp_2m_sde>},
    {"dpmpp_sde", NoiseKind::brownian, plain<dpmpp_sde>},
    {"ddim", NoiseKind::none, plain<euler>},
    {"uni_pc", NoiseKind::none, uni_pc<UniPC::Variant::bh1>},
    {"uni_pc_bh2", NoiseKind::none, uni_pc<UniPC::Variant::bh2>},
    {"lcm", NoiseKind::independent, plain<lcm>},
};

const Sampler& find(std::string_view name) { return find_named(samplers, "sampler", name); }

}  // namespace

Tensor run_sampler(std::string_view name, const Tensor& x, const std::vector<double>& sigmas, const Estimate& estimate,
                   const StepNoise& noise, const OnStep& on_step) {
  const TakeStep take_step = find(name).begin(sigmas);
  Tensor now = x, before;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const Tensor denoised = estimate(now, sigmas[i]);
    now = take_step({sigmas[i], sigmas[i + 1], now, denoised, before, i ? sigmas[i - 1] : 0, estimate, noise});
    if (on_step) on_step(static_cast<int>(i), now, denoised);
    before = denoised;
  }
  return now;
}

// By sampling a picture of one point.
std::vector<double> estimated_sigmas(std::string_view name, const std::vector<double>& sigmas) {
  std::vector<double> estimated;
  const Tensor x = Tensor::zeros({1}, flame::DType::f32, flame::Device::cpu());
  const auto estimate = [&](const Tensor& at, double sigma) {
    estimated.push_back(sigma);
    return at;
  };
  run_sampler(name, x, sigmas, estimate, [&](double, double) { return x; });
  return estimated;
}

NoiseKind noise_kind(std::string_view sampler) { return find(sampler).noise; }

const std::vector<std::string>& sampler_names() {
  static const std::vector<std::string> names = names_of(samplers);
  return names;
}

}  // namespace eri
