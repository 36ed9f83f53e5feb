#include "eri/sampling/drawing.h"

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace eri {

using flame::DType;

namespace {

// What an estimate is told of its noise level, and of guidance.
enum Factor : int64_t {
  input,
  noisy,
  predicted,
  velocity_noisy,
  velocity_predicted,
  noisy_v,
  predicted_v,
  guidance,
  rescale,
  factor_count
};

std::vector<int64_t> key_of(const Tensor& noise, const Conditioning& condition, bool rescaled) {
  std::vector<int64_t> key = {rescaled};
  for (const Tensor* part : {&noise, &condition.context})
    key.insert(key.end(), part->shape().begin(), part->shape().end());
  return key;
}

// The standard deviation of each picture, [N, 1, 1, 1].
Tensor deviation(const Tensor& x) {
  const Tensor centred = x - flame::mean(x, {1, 2, 3}, true);
  return flame::sqrt(flame::mean(centred * centred, {1, 2, 3}, true));
}

}  // namespace

Tensor LatentSampler::operator()(const Tensor& noise, const Conditioning& condition, const Sampling& how,
                                 const StepNoise& step_noise) {
  const int64_t rows = condition.context.dim(0);
  flame::require(noise.rank() == 4 && (rows == noise.dim(0) || rows == 2 * noise.dim(0)), "LatentSampler",
                 "expected noise of shape [N, C, h, w] and a condition of N or 2 N rows, got ", noise.shape(), " and ",
                 rows);
  Estimator& at = estimator_for(noise, condition, how.cfg_rescale != 0 && rows == 2 * noise.dim(0));
  at.condition.copy_from(condition);

  // What estimates are told besides x, all of them: the device takes a row of it at a time.
  const std::vector<double> levels = sigmas(how), estimated = estimated_sigmas(how.sampler, levels);
  std::vector<float> factors;
  std::vector<int64_t> timesteps;
  for (double sigma : estimated) {
    const Denoiser::Factors f = denoiser_.factors(sigma);
    factors.insert(factors.end(), {f.input, f.noisy, f.predicted, f.velocity_noisy, f.velocity_predicted, f.noisy_v,
                                   f.predicted_v, static_cast<float>(how.cfg), static_cast<float>(how.cfg_rescale)});
    timesteps.insert(timesteps.end(), rows, denoiser_.timestep(sigma));
  }
  const int64_t estimates = std::ssize(estimated);
  const Tensor all_factors = Tensor::from(factors, {estimates, factor_count}, device_);
  const Tensor all_timesteps = Tensor::from(timesteps, {estimates, rows}, device_);

  int64_t next = 0;
  const auto estimate = [&](const Tensor& x, double) {
    at.x.copy_from(x);
    at.factors.copy_from(all_factors.rows(next, 1));
    at.timesteps.copy_from(all_timesteps.rows(next, 1).view({rows}));
    ++next;
    at.work([this, &at] { this->estimate(at); });
    return at.denoised.clone();
  };
  return run_sampler(how.sampler, denoiser_.start(noise, levels.front()), levels, estimate, step_noise);
}

// The guided estimate of the pictures: negative + cfg (positive - negative). Rescaled (Lin et al., arXiv:2305.08891,
// section 3.4), as ComfyUI's RescaleCFG: guidance of v, then partly scaled to the deviation that it had without.
void LatentSampler::estimate(const Estimator& at) const {
  const int64_t pictures = at.x.dim(0), rows = at.timesteps.dim(0);
  const auto factor = [&](Factor which) { return at.factors.view({factor_count}).rows(which, 1); };
  const Tensor x = flame::repeat(at.x * factor(input), 0, rows / pictures);
  const Tensor output = predict_(x, at.timesteps, at.condition).to(DType::f32);
  const auto part = [&](int64_t first, Factor of_x, Factor of_output) {
    return at.x * factor(of_x) + output.rows(first, pictures) * factor(of_output);
  };
  const auto denoised = [&](int64_t first) {
    return at.x * factor(noisy) - output.rows(first, pictures) * factor(predicted);
  };
  const auto guided = [&](const Tensor& positive, const Tensor& negative) {
    return negative + (positive - negative) * factor(guidance);
  };
  if (rows == pictures) return at.denoised.copy_from(denoised(0));
  if (!at.rescaled) return at.denoised.copy_from(guided(denoised(0), denoised(pictures)));
  const Tensor positive = part(0, velocity_noisy, velocity_predicted);
  const Tensor v = guided(positive, part(pictures, velocity_noisy, velocity_predicted));
  const Tensor shrunk = v * (deviation(positive) / deviation(v));
  const Tensor mixed = v + (shrunk - v) * factor(rescale);
  at.denoised.copy_from(at.x * factor(noisy_v) - mixed * factor(predicted_v));
}

LatentSampler::Estimator& LatentSampler::estimator_for(const Tensor& noise, const Conditioning& condition,
                                                       bool rescaled) {
  const auto key = key_of(noise, condition, rescaled);
  if (const auto found = estimators_.find(key); found != estimators_.end()) return found->second;
  const flame::PurposeScope purpose(flame::Purpose::data);
  const auto room_for = [&](const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), device_); };
  return estimators_
      .emplace(key, Estimator{.x = room_for(noise),
                              .timesteps = Tensor::empty({condition.context.dim(0)}, DType::i64, device_),
                              .factors = Tensor::empty({1, factor_count}, DType::f32, device_),
                              .denoised = room_for(noise),
                              .condition = condition.map(room_for),
                              .rescaled = rescaled,
                              .work = {device_, graphs_}})
      .first->second;
}

size_t LatentSampler::graph_nodes() const {
  size_t nodes = 0;
  for (const auto& [key, estimator] : estimators_) nodes += estimator.work.nodes();
  return nodes;
}

// What decoding needs for a moment comes from the memory that steps live in.
std::vector<flame::Image> pictures_of(const VAE& vae, const Tensor& latents) {
  const flame::ArenaScope arena(latents.device());
  return flame::from_tensor(vae.decode(latents));
}

}  // namespace eri
