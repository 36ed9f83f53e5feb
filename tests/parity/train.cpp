#include "eri/diffusion/noise_schedule.h"
#include "flame/autograd/tape.h"
#include "flame/ops/layout.h"
#include "flame/ops/loss.h"
#include "flame/ops/pointwise.h"
#include "flame/optim/adamw.h"
#include "kinds.h"
#include "models.h"

namespace eri::parity {
namespace {

// The samples `index` [N] of a tensor [samples, ...].
Tensor pick(const Tensor& samples, const Tensor& index) {
  const int64_t count = samples.dim(0);
  const Tensor rows = flame::embedding(samples.view({count, samples.numel() / count}), index);
  return rows.view(samples.shape().with(0, index.dim(0)));
}

Tensor at_step(const Tensor& steps, int64_t step) { return steps.rows(step, 1).view(steps.shape().without(0)); }

Prediction prediction_of(const Case& c) {
  const std::string name = c.params.at("prediction");
  if (name != "epsilon" && name != "v") flame::fail("unknown prediction ", name);
  return name == "v" ? Prediction::v : Prediction::epsilon;
}

// One weight a timestep.
Tensor loss_weights(const Case& c, const NoiseSchedule& schedule) {
  const auto& gamma = c.params.at("min_snr_gamma");
  if (gamma.is_null()) return Tensor::ones({NoiseSchedule::steps}, flame::DType::f32, c.device);
  return timestep_table(min_snr_weights(schedule, gamma, prediction_of(c)), c.device);
}

}  // namespace

Tensors train(const Case& c) {
  const UNet unet = make_unet(c);
  const LoraTargets targets = lora_targets(unet, LoraPart::unet, LoraPreset::full);
  const LoraNetwork network(targets, read_lora(c, targets), c.dtype);
  const flame::ParameterPack& pack = network.parameters();
  const Tensor start = pack.values().clone();
  const auto& betas = c.params.at("betas");
  flame::AdamW optimizer(pack, {betas.at(0), betas.at(1), c.params.at("eps"), c.params.at("weight_decay")});
  const NoiseSchedule schedule(false, c.device);
  const Tensor weights = loss_weights(c, schedule);

  std::vector<float> losses, norms;
  for (int64_t step = 0; step < c.input("index").dim(0); ++step) {
    const Tensor index = at_step(c.input("index"), step), t = at_step(c.input("t"), step);
    const Tensor noise = at_step(c.input("noise"), step), latents = pick(c.input("latents"), index);
    optimizer.zero_grad();
    flame::GradientMap gradients;
    pack.bind(gradients);
    flame::Tape tape;
    const Tensor guess = unet(schedule.add_noise(latents, noise, t), t, pick(c.input("context"), index),
                              pick(c.input("pooled"), index), pick(c.input("time_ids"), index));
    const Tensor target = schedule.target(prediction_of(c), latents, noise, t);
    const Tensor loss = flame::weighted_mse_loss(guess.to(flame::DType::f32), target, at_timesteps(weights, t));
    tape.backward(loss, gradients);
    losses.push_back(loss.item());
    norms.push_back(static_cast<float>(optimizer.step(c.params.at("lr"), c.params.at("max_grad_norm")).gradient_norm));
  }

  const int64_t steps = static_cast<int64_t>(losses.size());
  Tensors results = {{"loss", Tensor::from(losses, {steps})}, {"grad_norm", Tensor::from(norms, {steps})}};
  const Tensor delta = pack.values() - start;
  for (const auto& parameter : pack.parameters())
    results["delta." + parameter.name] = in_file_layout(flame::ParameterPack::view(delta, parameter));
  return results;
}

}  // namespace eri::parity
