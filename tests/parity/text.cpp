#include "eri/models/t5_encoder.h"
#include "flame/autograd/tape.h"
#include "flame/ops/pointwise.h"
#include "kinds.h"
#include "models.h"

namespace eri::parity {

Tensors text(const Case& c) {
  Tensors results;
  results["hidden_l"] = make_clip_l(c).encode(c.input("ids_l"), false).hidden;
  const TextEncoding g = make_clip_g(c).encode(c.input("ids_g"));
  results["hidden_g"] = g.hidden;
  results["pooled"] = g.pooled;
  return results;
}

Tensors t5(const Case& c) {
  const auto file = c.checkpoint.empty() ? c.folder / "weights.safetensors" : c.checkpoint;
  return {{"hidden", T5Encoder::from_safetensors(file, c.device, c.dtype).encode(c.input("ids"))}};
}

namespace {

std::vector<std::string> texts(const Case& c) { return c.params.at("texts"); }

}  // namespace

Tensors prompts(const Case& c) {
  const TextEncoders text = make_text_encoders(c);
  Tensors results;
  for (const std::string& prompt : texts(c)) {
    const auto number = std::to_string(results.size() / 2);
    const auto [context, pooled] = text.prompts(std::span(&prompt, 1));
    results["context." + number] = context;
    results["pooled." + number] = pooled;
  }
  return results;
}

Tensors captions(const Case& c) {
  const TextEncoders text = make_text_encoders(c);
  Tensors results;
  for (const int64_t length : c.params.at("max_token_length")) {
    const auto [context, pooled] = text.captions(texts(c), length / kChunkTokens);
    results["context." + std::to_string(length)] = context;
    results["pooled." + std::to_string(length)] = pooled;
  }
  return results;
}

Tensors text_lora(const Case& c) {
  const CLIPTextEncoder clip_l = make_clip_l(c), clip_g = make_clip_g(c);
  LoraTargets targets = lora_targets(clip_l, LoraPart::clip_l);
  for (const LoraTarget& target : lora_targets(clip_g, LoraPart::clip_g)) targets.push_back(target);
  const LoraNetwork network(targets, read_lora(c, targets), c.dtype);

  flame::Tape tape;
  const Tensor hidden_l = clip_l.encode(c.input("ids_l"), false).hidden;
  const auto [hidden_g, pooled] = clip_g.encode(c.input("ids_g"));
  const auto times_gradient = [&](const Tensor& x, const char* gradient) {
    return (x.to(flame::DType::f32) * c.input(gradient)).sum();
  };
  const Tensor sum = times_gradient(hidden_l, "grad_hidden_l") + times_gradient(hidden_g, "grad_hidden_g") +
                     times_gradient(pooled, "grad_pooled");
  flame::GradientMap gradients;
  network.parameters().bind(gradients);
  tape.backward(sum, gradients);

  Tensors results = {{"hidden_l", hidden_l}, {"hidden_g", hidden_g}, {"pooled", pooled}};
  add_gradients(results, network.parameters());
  return results;
}

}  // namespace eri::parity
