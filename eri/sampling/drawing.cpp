#include "eri/sampling/drawing.h"

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {

using flame::DType;

namespace {

enum Factor : int64_t { input, noisy, predicted, guidance, factor_count };

std::vector<int64_t> key_of(const Tensor& noise, const Conditioning& condition) {
  std::vector<int64_t> key;
  for (const Tensor* part : {&noise, &condition.context})
    key.insert(key.end(), part->shape().begin(), part->shape().end());
  return key;
}

}  // namespace

Tensor LatentSampler::operator()(const Tensor& noise, const Conditioning& condition, double cfg, int steps) {
  const int64_t rows = condition.context.dim(0);
  flame::require(noise.rank() == 4 && noise.dim(0) == 1 && (rows == 1 || rows == 2), "LatentSampler",
                 "expected noise of shape [1, C, h, w] and a condition of one or two rows, got ", noise.shape(),
                 " and ", rows);
  Estimator& at = estimator_for(noise, condition);
  at.condition.context.copy_from(condition.context);
  at.condition.pooled.copy_from(condition.pooled);
  at.condition.time_ids.copy_from(condition.time_ids);

  // What an estimate is told besides x, for all steps: the device takes a row of it at a time.
  const std::vector<double> sigmas = schedule_sigmas("normal", denoiser_, steps);
  std::vector<float> factors;
  std::vector<int64_t> timesteps;
  for (int step = 0; step < steps; ++step) {
    const auto [input, noisy, predicted] = denoiser_.factors(sigmas[step]);
    factors.insert(factors.end(), {input, noisy, predicted, static_cast<float>(cfg)});
    timesteps.insert(timesteps.end(), rows, denoiser_.timestep(sigmas[step]));
  }
  const Tensor all_factors = Tensor::from(factors, {steps, factor_count}, device_);
  const Tensor all_timesteps = Tensor::from(timesteps, {steps, rows}, device_);

  int64_t step = 0;
  const auto estimate = [&](const Tensor& x, double) {
    at.x.copy_from(x);
    at.factors.copy_from(all_factors.rows(step, 1));
    at.timesteps.copy_from(all_timesteps.rows(step, 1).view({rows}));
    ++step;
    at.work([this, &at] { this->estimate(at); });
    return at.denoised.clone();
  };
  return run_sampler("euler", denoiser_.start(noise, sigmas.front()), sigmas, estimate);
}

// The guided estimate of the picture: negative + cfg (positive - negative).
void LatentSampler::estimate(const Estimator& at) const {
  const int64_t rows = at.timesteps.dim(0);
  const auto factor = [&](Factor which) { return at.factors.view({factor_count}).rows(which, 1); };
  const Tensor x = flame::repeat(at.x * factor(input), 0, rows);
  const Tensor output = predict_(x, at.timesteps, at.condition).to(DType::f32);
  const auto denoised = [&](int64_t row) { return at.x * factor(noisy) - output.rows(row, 1) * factor(predicted); };
  const Tensor positive = denoised(0);
  if (rows == 1) return at.denoised.copy_from(positive);
  const Tensor negative = denoised(1);
  at.denoised.copy_from(negative + (positive - negative) * factor(guidance));
}

LatentSampler::Estimator& LatentSampler::estimator_for(const Tensor& noise, const Conditioning& condition) {
  const auto key = key_of(noise, condition);
  if (const auto found = estimators_.find(key); found != estimators_.end()) return found->second;
  const flame::PurposeScope purpose(flame::Purpose::data);
  const auto room_for = [&](const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), device_); };
  return estimators_
      .emplace(key, Estimator{.x = room_for(noise),
                              .timesteps = Tensor::empty({condition.context.dim(0)}, DType::i64, device_),
                              .factors = Tensor::empty({1, factor_count}, DType::f32, device_),
                              .denoised = room_for(noise),
                              .condition = {room_for(condition.context), room_for(condition.pooled),
                                            room_for(condition.time_ids)},
                              .work = {device_, graphs_}})
      .first->second;
}

size_t LatentSampler::graph_nodes() const {
  size_t nodes = 0;
  for (const auto& [key, estimator] : estimators_) nodes += estimator.work.nodes();
  return nodes;
}

Tensor unit_noise(uint64_t seed, const flame::Shape& latents, flame::Device device) {
  flame::Generator generator(seed);
  return Tensor::randn(latents, generator, device);
}

// What decoding needs for a moment comes from the memory that steps live in.
flame::Image picture_of(const VAE& vae, const Tensor& latents) {
  const flame::ArenaScope arena(latents.device());
  return flame::from_tensor(vae.decode(latents)).front();
}

}  // namespace eri
