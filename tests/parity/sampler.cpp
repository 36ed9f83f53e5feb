#include "eri/diffusion/samplers.h"
#include "eri/diffusion/sigma_schedules.h"
#include "eri/sampling/drawing.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "kinds.h"
#include "models.h"

namespace eri::parity {

Tensors sampler(const Case& c) {
  const std::string name = c.params.at("sampler"), scheduler = c.params.at("scheduler");
  const UNet unet = make_unet(c);
  const Prediction prediction = c.params.at("prediction") == "v" ? Prediction::v : Prediction::epsilon;
  const Denoiser denoiser(NoiseSchedule(c.params.at("ztsnr").get<bool>()), prediction);
  const float cfg = c.params.at("cfg");
  const std::vector<double> sigmas = sampler_sigmas(name, scheduler, denoiser, c.params.at("steps"));

  const auto estimate = [&](const Tensor& x, double sigma) {
    const int64_t timestep = denoiser.timestep(sigma);
    const auto denoised = [&](const char* context, const char* pooled) {
      const Tensor t = Tensor::full({x.dim(0)}, timestep, flame::DType::i32, c.device);
      const Tensor out =
          unet(denoiser.scaled_input(x, sigma), t, c.input(context), c.input(pooled), c.input("time_ids"));
      return denoiser.denoised(x, out.to(flame::DType::f32), sigma);
    };
    const Tensor negative = denoised("negative_context", "negative_pooled");
    return negative + (denoised("context", "pooled") - negative) * cfg;
  };

  const Tensor start = denoiser.start(c.input("noise"), sigmas.front());
  std::vector<Tensor> xs, estimates;
  std::vector<int32_t> timesteps;
  int64_t noises = 0;
  const auto noise = [&](double, double) { return c.input("step_noise").rows(noises++, 1).view(start.shape()); };
  run_sampler(name, start, sigmas, estimate, noise, [&](int step, const Tensor& x, const Tensor& denoised) {
    timesteps.push_back(static_cast<int32_t>(denoiser.timestep(sigmas[step])));
    xs.push_back(x);
    estimates.push_back(denoised);
  });
  const int64_t steps = static_cast<int64_t>(xs.size());
  return {{"sigmas", Tensor::from(std::vector<float>(sigmas.begin(), sigmas.end()), {steps + 1})},
          {"timesteps", Tensor::from(timesteps, {steps})},
          {"x_start", start},
          {"x", flame::stack(xs, 0)},
          {"denoised", flame::stack(estimates, 0)}};
}

Tensors drawing(const Case& c) {
  UNet unet = make_unet(c);
  if (c.fused) unet.fuse();
  const auto predict = [&](const Tensor& x, const Tensor& timesteps, const Conditioning& condition) {
    return unet(x, timesteps, condition.context, condition.pooled, condition.time_ids);
  };
  LatentSampler sampler(Denoiser(NoiseSchedule(), Prediction::epsilon), predict, c.device);
  const auto both = [&](const char* positive, const char* negative) {
    return flame::concat({c.input(positive), c.input(negative)}, 0);
  };
  const Conditioning condition = {both("context", "negative_context"), both("pooled", "negative_pooled"),
                                  both("time_ids", "time_ids")};
  return {{"latent", sampler(c.input("noise"), condition, {.steps = c.params.at("steps"), .cfg = c.params.at("cfg")})}};
}

}  // namespace eri::parity
