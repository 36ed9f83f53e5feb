// What is handed to the device as numbers gives the bits that constants in the code give.
#include "eri/sampling/drawing.h"

#include <gtest/gtest.h>

#include <cmath>

#include "eri/sampling/picture_noise.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "tests/distance.h"

namespace eri {
namespace {

using flame::DType;
using flame::Generator;

// A model whose prediction depends on everything that it is told.
Tensor predict(const Tensor& x, const Tensor& timesteps, const Conditioning& condition) {
  const int64_t n = x.dim(0);
  const auto column = [&](const Tensor& each) { return each.to(DType::f32).view({n, 1, 1, 1}); };
  return x * 0.3f + column(timesteps) * 1e-4f + column(condition.pooled) + column(condition.context) * 0.1f +
         column(condition.time_ids) * 0.2f;
}

Conditioning condition_of(int64_t rows, Generator& generator) {
  return {Tensor::randn({rows, 1, 1}, generator), Tensor::randn({rows, 1}, generator),
          Tensor::randn({rows, 1}, generator)};
}

// Guidance of estimates, as ComfyUI's RescaleCFG where it is rescaled: written out, one picture at a time.
Tensor guided(const Tensor& x, const Tensor& positive, const Tensor& negative, double sigma, const Sampling& how) {
  const auto cfg = static_cast<float>(how.cfg);
  if (how.cfg_rescale == 0) return negative + (positive - negative) * cfg;
  const double root = std::sqrt(sigma * sigma + 1);
  const auto to_v = [&](const std::vector<float>& x0, const std::vector<float>& noisy) {
    std::vector<double> v;
    for (size_t i = 0; i < x0.size(); ++i) v.push_back((noisy[i] / (root * root) - x0[i]) * root / sigma);
    return v;
  };
  const auto deviation = [](const std::vector<double>& v) {
    double sum = 0, squares = 0;
    for (double value : v) sum += value, squares += value * value;
    const auto n = static_cast<double>(v.size());
    return std::sqrt(squares / n - sum / n * (sum / n));
  };
  const std::vector<float> noisy = x.to_host<float>();
  const std::vector<double> p = to_v(positive.to_host<float>(), noisy), n = to_v(negative.to_host<float>(), noisy);
  std::vector<double> v;
  for (size_t i = 0; i < p.size(); ++i) v.push_back(n[i] + how.cfg * (p[i] - n[i]));
  const double factor = how.cfg_rescale * deviation(p) / deviation(v) + 1 - how.cfg_rescale;
  std::vector<float> x0;
  for (size_t i = 0; i < v.size(); ++i)
    x0.push_back(static_cast<float>(noisy[i] / (root * root) - v[i] * factor * sigma / root));
  return Tensor::from(x0, x.shape());
}

Tensor rows_of(const Tensor& x, int64_t row) { return x.rows(row, 1); }

// One picture, `count` of which lie in the condition.
Tensor expected(const Denoiser& denoiser, const Tensor& noise, const Conditioning& condition, int64_t picture,
                int64_t count, const Sampling& how, const StepNoise& step_noise) {
  const auto estimate = [&](const Tensor& x, double sigma) {
    const auto denoised = [&](int64_t row) {
      const Tensor t = Tensor::full({1}, static_cast<double>(denoiser.timestep(sigma)), DType::i64);
      const Tensor out =
          predict(denoiser.scaled_input(x, sigma), t,
                  {rows_of(condition.context, row), rows_of(condition.pooled, row), rows_of(condition.time_ids, row)});
      return denoiser.denoised(x, out, sigma);
    };
    if (condition.context.dim(0) == count) return denoised(picture);
    return guided(x, denoised(picture), denoised(count + picture), sigma, how);
  };
  const std::vector<double> sigmas = sampler_sigmas(how.sampler, how.scheduler, denoiser, how.steps);
  return run_sampler(how.sampler, denoiser.start(noise, sigmas.front()), sigmas, estimate, step_noise);
}

TEST(LatentSampler, IsTheSamplerWithGuidance) {
  Generator generator(3);
  for (Prediction prediction : {Prediction::epsilon, Prediction::v}) {
    const Denoiser denoiser(NoiseSchedule(prediction == Prediction::v), prediction);
    LatentSampler sampler(denoiser, predict, flame::Device::cpu());
    for (int64_t rows : {1, 2}) {
      for (const auto& [cfg, steps] : {std::pair{4.0, 5}, {1.5, 3}, {4.0, 1}}) {
        const Tensor noise = Tensor::randn({1, 4, 6, 5}, generator);
        const Conditioning condition = condition_of(rows, generator);
        const Sampling how{.steps = steps, .cfg = cfg};
        EXPECT_EQ(sampler(noise, condition, how).to_host<float>(),
                  expected(denoiser, noise, condition, 0, 1, how, {}).to_host<float>())
            << rows << " rows, " << steps << " steps";
      }
    }
  }
}

TEST(LatentSampler, DrawsEachOfABatchAsAlone) {
  Generator generator(4);
  const std::vector<uint64_t> seeds = {7, 8, 1};
  const flame::Shape shape{1, 4, 6, 5};
  const Conditioning condition = condition_of(6, generator);
  for (Prediction prediction : {Prediction::epsilon, Prediction::v}) {
    const Denoiser denoiser(NoiseSchedule(), prediction);
    LatentSampler sampler(denoiser, predict, flame::Device::cpu());
    for (NoiseSource source : {NoiseSource::philox, NoiseSource::comfy}) {
      for (const std::string& name : sampler_names()) {
        for (double rescale : {0.0, 0.7}) {
          const Sampling how{name, "karras", 5, 3, rescale};
          const auto noise_of = [&](std::span<const uint64_t> some) {
            return step_noise(name, some, shape, sampler.sigmas(how), flame::Device::cpu(), source);
          };
          const auto begin_of = [&](std::span<const uint64_t> some) {
            return unit_noise(some, shape, flame::Device::cpu(), source);
          };
          const Tensor all = sampler(begin_of(seeds), condition, how, noise_of(seeds));
          for (int64_t picture = 0; picture < 3; ++picture) {
            const std::span seed(&seeds[static_cast<size_t>(picture)], 1);
            const Tensor alone = expected(denoiser, begin_of(seed), condition, picture, 3, how, noise_of(seed));
            EXPECT_LT(flame::distance(all.rows(picture, 1), alone), 1e-5) << name << " rescaled by " << rescale;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace eri
