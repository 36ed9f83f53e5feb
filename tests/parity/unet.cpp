#include "flame/autograd/tape.h"
#include "flame/core/generator.h"
#include "flame/ops/loss.h"
#include "flame/ops/pointwise.h"
#include "kinds.h"
#include "models.h"

namespace eri::parity {
namespace {

// The case with inputs moved by an eighth of the spacing of numbers in its dtype. All is rounded otherwise then, while
// the exact result moves by a tenth of what rounding does.
Case redrawn(const Case& c, uint64_t seed) {
  const float spacing = c.dtype == flame::DType::bf16 ? 0x1p-7f : 0x1p-10f;
  flame::Generator generator(seed);
  Case result = c;
  for (const char* name : {"x", "context", "pooled"}) {
    const Tensor& x = c.input(name);
    result.inputs[name] = x * (Tensor::randn(x.shape(), generator, c.device) * (spacing / 8) + 1.0f);
  }
  return result;
}

Tensors forward_and_backward(const Case& c, const UNet& unet) {
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

}  // namespace

Tensors unet(const Case& c) {
  UNet unet = make_unet(c);
  if (c.fused) unet.fuse();
  return {{"out", unet(c.input("x"), c.input("t"), c.input("context"), c.input("pooled"), c.input("time_ids"))}};
}

std::vector<Tensors> unet_lora(const Case& c) {
  const UNet unet = make_unet(c);
  if (c.draws == 1) return {forward_and_backward(c, unet)};
  std::vector<Tensors> draws;
  for (int draw = 0; draw < c.draws; ++draw) draws.push_back(forward_and_backward(redrawn(c, draw), unet));
  return draws;
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
