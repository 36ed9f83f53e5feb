#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "flame/nn/layers.h"

namespace eri {

// The models that an SDXL LoRA may change.
enum class LoraPart { unet, clip_l, clip_g };

// Of the layers that can have a LoRA, which do: kohya's default, or also the convolutions and embeddings of the UNet's
// ResBlocks and the convolutions between its levels (kohya's conv_dim).
enum class LoraPreset { linear, conv };

// A layer as LoRA files name it.
struct LoraTarget {
  std::string name;
  std::variant<flame::Linear, flame::Conv2d> layer;
  LoraPart part = LoraPart::unet;
  std::string path = {};            // in a single-file checkpoint; of a text encoder, in transformers
  std::string diffusers_path = {};  // of a UNet's layer in diffusers' UNet2DConditionModel

  int64_t in() const;
  int64_t out() const;
  int kernel() const;  // 0 for a linear layer
  const flame::Tensor& weight() const;
  std::optional<flame::Adapter>& adapter() const;
};
using LoraTargets = std::vector<LoraTarget>;

// The name of a layer in the files of kohya's sd-scripts: lora_unet_, lora_te1_ or lora_te2_, and its path in a
// single-file checkpoint (of a text encoder: in transformers) with _ for each dot.
std::string lora_name(LoraPart part, std::string_view path);

bool is_lora_target(LoraPart part, std::string_view path, LoraPreset preset);
LoraTargets lora_targets(const flame::Module& model, LoraPart part, LoraPreset preset = LoraPreset::linear);

}  // namespace eri
