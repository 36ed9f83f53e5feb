#include "eri/lora/targets.h"

#include <algorithm>
#include <array>

#include "eri/models/weight_names.h"

namespace eri {
namespace {

bool ends_with_any(std::string_view path, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(), [=](std::string_view ending) { return path.ends_with(ending); });
}

bool is_in_transformer(std::string_view path) {
  return path.find(".transformer_blocks.") != path.npos || ends_with_any(path, {".proj_in", ".proj_out"});
}

bool is_in_res_block_or_between_levels(std::string_view path) {
  return ends_with_any(path, {".in_layers.2", ".emb_layers.1", ".out_layers.3", ".skip_connection", ".op", ".conv"});
}

NameMap diffusers_names(const flame::Module& unet) {
  std::vector<std::string> paths;
  for (const auto& [path, layer] : unet.linears()) paths.push_back(path + ".");
  for (const auto& [path, layer] : unet.convs()) paths.push_back(path + ".");
  return diffusers_unet_names(UNetLevels::of_single_file(paths));
}

// What diffusers calls a layer; nothing if it has none of the kind.
std::string theirs(const NameMap& names, const std::string& path) {
  const auto place = names.theirs(path + ".");
  return place ? place->name.substr(0, place->name.size() - 1) : "";
}

}  // namespace

int64_t LoraTarget::in() const {
  return std::visit([](const auto& layer) { return layer.in(); }, layer);
}

int64_t LoraTarget::out() const {
  return std::visit([](const auto& layer) { return layer.out(); }, layer);
}

int LoraTarget::kernel() const {
  const auto* conv = std::get_if<flame::Conv2d>(&layer);
  return conv ? conv->kernel() : 0;
}

const flame::Tensor& LoraTarget::weight() const {
  return std::visit([](const auto& layer) -> const flame::Tensor& { return layer.weight(); }, layer);
}

std::optional<flame::Adapter>& LoraTarget::adapter() const {
  return std::visit([](const auto& layer) -> std::optional<flame::Adapter>& { return layer.adapter(); }, layer);
}

std::string lora_name(LoraPart part, std::string_view path) {
  constexpr std::array prefixes = {"lora_unet_", "lora_te1_", "lora_te2_"};
  std::string name = prefixes[static_cast<size_t>(part)] + std::string(path);
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

bool is_lora_target(LoraPart part, std::string_view path, LoraPreset preset) {
  if (part != LoraPart::unet) return path.find("encoder.layers.") != path.npos;
  return is_in_transformer(path) || (preset == LoraPreset::conv && is_in_res_block_or_between_levels(path));
}

LoraTargets lora_targets(const flame::Module& model, LoraPart part, LoraPreset preset) {
  const NameMap diffusers = part == LoraPart::unet ? diffusers_names(model) : NameMap();
  LoraTargets targets;
  const auto add = [&](const auto& layers) {
    for (const auto& [path, layer] : layers) {
      if (is_lora_target(part, path, preset))
        targets.push_back({lora_name(part, path), layer, part, path, theirs(diffusers, path)});
    }
  };
  add(model.linears());
  add(model.convs());
  return targets;
}

}  // namespace eri
