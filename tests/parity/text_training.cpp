#include "eri/diffusion/noise_schedule.h"
#include "eri/lora/sdxl_lora.h"
#include "flame/autograd/tape.h"
#include "flame/ops/loss.h"
#include "kinds.h"
#include "models.h"

namespace eri::parity {

Tensors text_training(const Case& c) {
  UNet unet = make_unet(c);
  const TextEncoders text = make_text_encoders(c);
  const LoraTargets targets = sdxl_lora_targets(unet, text.clip_l, text.clip_g);
  const LoraNetwork network(targets, read_lora(c, targets), c.fused ? flame::DType::f32 : c.dtype);
  if (c.fused) unet.fuse();

  flame::Tape tape;
  const auto [context, pooled] = text.encode(c.input("ids"));
  const Tensor noisy = NoiseSchedule(false, c.device).add_noise(c.input("latents"), c.input("noise"), c.input("t"));
  const Tensor out = unet(noisy, c.input("t"), context, pooled, c.input("time_ids")).to(flame::DType::f32);
  flame::GradientMap gradients;
  network.parameters().bind(gradients);
  tape.backward(flame::mse_loss(out, c.input("noise")), gradients);

  Tensors results = {{"out", out.detach()}};
  add_gradients(results, network.parameters());
  return results;
}

}  // namespace eri::parity
