// What is handed to the device as numbers gives the bits that constants in the code give.
#include "eri/sampling/drawing.h"

#include <gtest/gtest.h>

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

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

Tensor expected(const Denoiser& denoiser, const Tensor& noise, const Conditioning& condition, double cfg, int steps) {
  const auto estimate = [&](const Tensor& x, double sigma) {
    const auto denoised = [&](int64_t row) {
      const Tensor t = Tensor::full({1}, static_cast<double>(denoiser.timestep(sigma)), DType::i64);
      const Tensor out =
          predict(denoiser.scaled_input(x, sigma), t,
                  {condition.context.rows(row, 1), condition.pooled.rows(row, 1), condition.time_ids.rows(row, 1)});
      return denoiser.denoised(x, out, sigma);
    };
    if (condition.context.dim(0) == 1) return denoised(0);
    const Tensor negative = denoised(1);
    return negative + (denoised(0) - negative) * static_cast<float>(cfg);
  };
  const std::vector<double> sigmas = schedule_sigmas("normal", denoiser, steps);
  return run_sampler("euler", denoiser.start(noise, sigmas.front()), sigmas, estimate);
}

TEST(LatentSampler, IsEulerWithGuidance) {
  Generator generator(3);
  for (Prediction prediction : {Prediction::epsilon, Prediction::v}) {
    const Denoiser denoiser(NoiseSchedule(prediction == Prediction::v), prediction);
    LatentSampler sampler(denoiser, predict, flame::Device::cpu());
    for (int64_t rows : {1, 2}) {
      for (const auto& [cfg, steps] : {std::pair{4.0, 5}, {1.5, 3}, {4.0, 1}}) {
        const Tensor noise = Tensor::randn({1, 4, 6, 5}, generator);
        const Conditioning condition = condition_of(rows, generator);
        EXPECT_EQ(sampler(noise, condition, cfg, steps).to_host<float>(),
                  expected(denoiser, noise, condition, cfg, steps).to_host<float>())
            << rows << " rows, " << steps << " steps";
      }
    }
  }
}

}  // namespace
}  // namespace eri
