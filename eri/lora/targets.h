#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "flame/nn/layers.h"

namespace eri {

// The models that an SDXL LoRA may change.
enum class LoraPart { unet, clip_l, clip_g };

// Of the layers that can have a LoRA, which do, under LyCORIS' names. kohya trains attn_mlp and, with conv_dim, full.
enum class LoraPreset { attn_mlp, attn_only, full, full_lin, unet_only, unet_transformer_only, unet_convblock_only };
LoraPreset parse_lora_preset(std::string_view name);  // "attn-mlp"; throws for an unknown name, listing the known ones
const char* name_of(LoraPreset preset);
bool has_convolutions(LoraPreset preset);  // larger than 1x1

// The place of a LoRA in a model, which need not be loaded.
struct LoraSite {
  std::string name;  // of the module in a LoRA file
  LoraPart part = LoraPart::unet;
  std::string path = {};  // in a single-file checkpoint; of a text encoder, in transformers
  int kernel = 0;         // above 1: a convolution that is no matrix
};
using LoraSites = std::vector<LoraSite>;

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
  LoraSite site() const { return {name, part, path, kernel()}; }
};
using LoraTargets = std::vector<LoraTarget>;
LoraSites sites_of(const LoraTargets& targets);

// The name of a layer in the files of kohya's sd-scripts: lora_unet_, lora_te1_ or lora_te2_, and its path in a
// single-file checkpoint (of a text encoder: in transformers) with _ for each dot.
std::string lora_name(LoraPart part, std::string_view path);

bool is_lora_target(LoraPart part, std::string_view path, LoraPreset preset);
LoraTargets lora_targets(const flame::Module& model, LoraPart part, LoraPreset preset = LoraPreset::attn_mlp);
// Those of a model's weights, by their names and shapes alone.
LoraSites lora_sites(const flame::WeightSource& weights, LoraPart part, LoraPreset preset = LoraPreset::attn_mlp);

}  // namespace eri
