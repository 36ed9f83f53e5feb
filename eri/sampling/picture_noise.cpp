#include "eri/sampling/picture_noise.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "eri/sampling/brownian_tree.h"
#include "eri/sampling/torch_generator.h"
#include "flame/core/generator.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

using flame::Device;
using flame::Shape;

// A Brownian motion that is asked for from high to low noise levels, and may be asked again for a longer way from the
// same level.
class BrownianPath {
 public:
  explicit BrownianPath(std::function<Tensor()> unit_noise) : unit_noise_(std::move(unit_noise)) {}

  Tensor operator()(double sigma, double next) {
    if (sigma != begin_) begin_ = reached_ = sigma, way_ = {};
    flame::require(next < reached_, "BrownianPath", "expected a way beyond ", reached_, ", got one to ", next);
    const Tensor part = unit_noise_() * static_cast<float>(std::sqrt(reached_ - next));
    way_ = way_.defined() ? way_ + part : part;
    reached_ = next;
    return way_ * static_cast<float>(1 / std::sqrt(begin_ - next));
  }

 private:
  std::function<Tensor()> unit_noise_;
  double begin_ = -1, reached_ = -1;
  Tensor way_;
};

// One picture's.
StepNoise philox_noise(uint64_t seed, const Shape& latents, Device device) {
  flame::Generator generator(seed);
  generator.next_call();  // the first is the noise that it starts from
  return BrownianPath([=]() mutable { return Tensor::randn(latents, generator, device); });
}

StepNoise comfy_noise(NoiseKind kind, uint64_t seed, const Shape& latents, const std::vector<double>& sigmas,
                      Device device) {
  if (kind == NoiseKind::independent)
    return [=, generator = TorchGenerator(seed + 1)](double, double) mutable {
      return Tensor::from(generator.randn(latents.numel()), latents, device);
    };
  const auto [least, most] = std::minmax_element(sigmas.begin(), std::find(sigmas.begin(), sigmas.end(), 0.0));
  const auto tree = std::make_shared<BrownianTree>(*least, *most, latents.numel(), seed);
  return [=](double sigma, double next) {
    std::vector<float> way = tree->increment(static_cast<float>(next), sigma);
    const double size = std::sqrt(sigma - static_cast<float>(next));
    for (float& value : way) value = static_cast<float>(-value / size);
    return Tensor::from(way, latents, device);
  };
}

}  // namespace

NoiseSource parse_noise_source(std::string_view name) {
  if (name == "philox") return NoiseSource::philox;
  if (name == "comfy") return NoiseSource::comfy;
  flame::fail("there is no noise '", name, "': expected philox or comfy");
}

Tensor unit_noise(uint64_t seed, const Shape& latents, Device device, NoiseSource source) {
  if (source == NoiseSource::comfy) return Tensor::from(TorchGenerator(seed).randn(latents.numel()), latents, device);
  flame::Generator generator(seed);
  return Tensor::randn(latents, generator, device);
}

Tensor unit_noise(std::span<const uint64_t> seeds, const Shape& latents, Device device, NoiseSource source) {
  std::vector<Tensor> rows;
  for (uint64_t seed : seeds) rows.push_back(unit_noise(seed, latents, device, source));
  return rows.size() == 1 ? rows.front() : flame::concat(rows, 0);
}

StepNoise step_noise(std::string_view sampler, std::span<const uint64_t> seeds, const Shape& latents,
                     const std::vector<double>& sigmas, Device device, NoiseSource source) {
  const NoiseKind kind = noise_kind(sampler);
  if (kind == NoiseKind::none) return {};
  std::vector<StepNoise> rows;
  for (uint64_t seed : seeds)
    rows.push_back(source == NoiseSource::philox ? philox_noise(seed, latents, device)
                                                 : comfy_noise(kind, seed, latents, sigmas, device));
  return [rows = std::move(rows)](double sigma, double next) {
    std::vector<Tensor> noises;
    for (const StepNoise& row : rows) noises.push_back(row(sigma, next));
    return noises.size() == 1 ? noises.front() : flame::concat(noises, 0);
  };
}

}  // namespace eri
