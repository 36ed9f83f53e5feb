#include "flame/autograd/tape.h"
#include "flame/ops/loss.h"
#include "kinds.h"
#include "models.h"

namespace eri::parity {

Tensors unet(const Case& c) {
  UNet unet = make_unet(c);
  if (c.fused) unet.fuse();
  return {{"out", unet(c.input("x"), c.input("t"), c.input("context"), c.input("pooled"), c.input("time_ids"))}};
}

Tensors unet_lora(const Case& c) {
  const UNet unet = make_unet(c);
  const LoraTargets targets = lora_targets(unet, LoraPart::unet, LoraPreset::full);
  const LoraNetwork network(targets, read_lora(c, targets), c.dtype);
  const Tensor context = c.input("context").requires_grad(), pooled = c.input("pooled").requires_grad();

  flame::Tape tape;
  const Tensor out = unet(c.input("x"), c.input("t"), context, pooled, c.input("time_ids")).to(flame::DType::f32);
  flame::GradientMap gradients;
  network.parameters().bind(gradients);
  tape.backward(out, c.input("grad_out"), gradients);

  Tensors results = {{"out", out}, {"grad.context", gradients[context]}, {"grad.pooled", gradients[pooled]}};
  add_gradients(results, network.parameters());
  return results;
}

Tensors unet_loss(const Case& c) {
  UNet unet = make_unet(c);
  const LoraTargets targets = lora_targets(unet, LoraPart::unet);
  const LoraNetwork network(targets, read_lora(c, targets), c.fused ? flame::DType::f32 : c.dtype);
  if (c.fused) unet.fuse();

  flame::Tape tape;
  const Tensor out = unet(c.input("x"), c.input("t"), c.input("context"), c.input("pooled"), c.input("time_ids"));
  const Tensor loss = flame::mse_loss(out.to(flame::DType::f32), c.input("target"));
  flame::GradientMap gradients;
  network.parameters().bind(gradients);
  tape.backward(loss, gradients);

  Tensors results = {{"out", out.detach()}};
  add_gradients(results, network.parameters());
  return results;
}

}  // namespace eri::parity
