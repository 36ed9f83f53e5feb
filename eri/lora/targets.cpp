#include "eri/lora/targets.h"

#include <algorithm>
#include <array>

#include "eri/models/weight_names.h"
#include "flame/core/error.h"

namespace eri {
namespace {

bool ends_with_any(std::string_view path, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(), [=](std::string_view ending) { return path.ends_with(ending); });
}

// Kinds of layers, for presets to add up.
enum Kind : unsigned {
  none = 0,
  attention = 1,
  mlp = 2,         // and what leads into a UNet's transformer and out of it
  pointwise = 4,   // of a ResBlock: what the timestep's embedding goes through, and 1x1 convolutions
  convolution = 8  // of a ResBlock, and between the levels
};

Kind kind_of(LoraPart part, std::string_view path) {
  const auto has = [=](std::string_view piece) { return path.find(piece) != path.npos; };
  if (part != LoraPart::unet) return !has("encoder.layers.") ? none : has(".self_attn.") ? attention : mlp;
  if (has(".attn1.") || has(".attn2.")) return attention;
  if (has(".transformer_blocks.") || ends_with_any(path, {".proj_in", ".proj_out"})) return mlp;
  if (ends_with_any(path, {".emb_layers.1", ".skip_connection"})) return pointwise;
  return ends_with_any(path, {".in_layers.2", ".out_layers.3", ".op", ".conv"}) ? convolution : none;
}

// What LyCORIS' presets come to in SDXL as sd-scripts has it.
struct Preset {
  LoraPreset preset;
  const char* name;
  unsigned unet, text;
};
constexpr unsigned transformer = attention | mlp, res_block = pointwise | convolution, all = transformer | res_block;
constexpr Preset presets[] = {
    {LoraPreset::attn_mlp, "attn-mlp", transformer, transformer},
    {LoraPreset::attn_only, "attn-only", attention, attention},
    {LoraPreset::full, "full", all, transformer},
    {LoraPreset::full_lin, "full-lin", transformer | pointwise, transformer},
    {LoraPreset::unet_only, "unet-only", all, none},
    {LoraPreset::unet_transformer_only, "unet-transformer-only", transformer, none},
    {LoraPreset::unet_convblock_only, "unet-convblock-only", res_block, none},
};

const Preset& row_of(LoraPreset preset) {
  return *std::find_if(std::begin(presets), std::end(presets), [=](const Preset& row) { return row.preset == preset; });
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

LoraPreset parse_lora_preset(std::string_view name) {
  std::string names;
  for (const Preset& row : presets) {
    if (row.name == name) return row.preset;
    names += flame::text(names.empty() ? "" : ", ", row.name);
  }
  flame::fail("lora_preset: expected auto or one of ", names, ", got '", name, "'");
}

const char* name_of(LoraPreset preset) { return row_of(preset).name; }

bool has_convolutions(LoraPreset preset) { return (row_of(preset).unet & convolution) != 0; }

bool is_lora_target(LoraPart part, std::string_view path, LoraPreset preset) {
  const Preset& row = row_of(preset);
  return (kind_of(part, path) & (part == LoraPart::unet ? row.unet : row.text)) != 0;
}

LoraSites sites_of(const LoraTargets& targets) {
  LoraSites sites;
  for (const LoraTarget& target : targets) sites.push_back(target.site());
  return sites;
}

LoraSites lora_sites(const flame::WeightSource& weights, LoraPart part, LoraPreset preset) {
  constexpr std::string_view ending = ".weight";
  LoraSites sites;
  for (const std::string& name : weights.names()) {
    const std::optional<flame::Shape> shape = weights.find(name);
    if (!name.ends_with(ending) || !shape || shape->rank() < 2) continue;
    const std::string path = name.substr(0, name.size() - ending.size());
    if (is_lora_target(part, path, preset))
      sites.push_back({lora_name(part, path), part, path, shape->rank() == 4 ? static_cast<int>((*shape)[2]) : 0});
  }
  return sites;
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
