#include "eri/lora/sdxl_lora.h"

#include <cmath>

#include "eri/lora/lora.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

void append(LoraTargets& targets, const LoraTargets& more) { targets.insert(targets.end(), more.begin(), more.end()); }

}  // namespace

LoraTargets sdxl_lora_targets(const UNet& unet, const CLIPTextEncoder& clip_l, const CLIPTextEncoder& clip_g) {
  LoraTargets targets = lora_targets(unet, LoraPart::unet, LoraPreset::full);
  append(targets, lora_targets(clip_l, LoraPart::clip_l));
  append(targets, lora_targets(clip_g, LoraPart::clip_g));
  return targets;
}

LoraTargets sdxl_lora_targets(const Checkpoint& checkpoint, bool text_encoders) {
  const auto scope = [](const flame::WeightSource& weights) {
    return flame::Scope(weights, flame::DType::f16, flame::Device::cpu());
  };
  LoraTargets targets = lora_targets(UNet(scope(*checkpoint.unet())), LoraPart::unet, LoraPreset::full);
  if (!text_encoders) return targets;
  append(targets, lora_targets(CLIPTextEncoder(scope(*checkpoint.clip_l()), Activation::quick_gelu), LoraPart::clip_l));
  append(targets, lora_targets(CLIPTextEncoder(scope(*checkpoint.clip_g()), Activation::gelu), LoraPart::clip_g));
  return targets;
}

LoraSites sdxl_lora_sites(const Checkpoint& checkpoint) {
  LoraSites sites;
  const auto add = [&](LoraPart part, const flame::WeightSource& weights) {
    for (const LoraSite& site : lora_sites(weights, part, LoraPreset::full)) sites.push_back(site);
  };
  add(LoraPart::unet, *checkpoint.unet());
  add(LoraPart::clip_l, *checkpoint.clip_l());
  add(LoraPart::clip_g, *checkpoint.clip_g());
  return sites;
}

LoRA random_lora(const LoraTargets& targets, const LoraOptions& options) {
  LoRA::Modules modules = new_lora(targets, options).modules();
  flame::Generator generator(options.seed + 1);
  for (auto& [name, module] : modules) {
    const float bound = 1 / std::sqrt(static_cast<float>(module.rank()));
    module.up = flame::Tensor::rand(module.up.shape(), generator) * (2 * bound) - bound;
  }
  return LoRA(std::move(modules));
}

}  // namespace eri
