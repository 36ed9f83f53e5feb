#include "eri/lora/names.h"

#include <algorithm>
#include <array>

namespace eri {
namespace {

std::string with_underscores(std::string path) {
  std::replace(path.begin(), path.end(), '.', '_');
  return path;
}

// Before PEFT, diffusers kept an attention's factors in its processor: attn1.to_out.0 is attn1.processor.to_out there.
std::string in_processor(const std::string& path) {
  const size_t at = path.rfind(".to_");
  if (at == path.npos) return "";
  return path.substr(0, at) + ".processor" + path.substr(at, path.ends_with(".0") ? path.size() - at - 2 : path.npos);
}

}  // namespace

const char* describe(LoraNaming naming) {
  constexpr std::array names = {"kohya's names",
                                "kohya's names with a single file's block numbers",
                                "kohya's names with diffusers' block numbers",
                                "LyCORIS' names",
                                "diffusers' names",
                                "PEFT's names",
                                "ComfyUI's names"};
  return names[static_cast<size_t>(naming)];
}

std::optional<LoraTensorName> split_lora_name(std::string_view tensor) {
  constexpr std::pair<std::string_view, LoraRole> endings[] = {
      {".lora_down.weight", LoraRole::down},
      {".lora_up.weight", LoraRole::up},
      {".lora_A.weight", LoraRole::down},
      {".lora_B.weight", LoraRole::up},
      {".lora_A.default.weight", LoraRole::down},
      {".lora_B.default.weight", LoraRole::up},
      {".lora_A", LoraRole::down},
      {".lora_B", LoraRole::up},
      {".lora.down.weight", LoraRole::down},
      {".lora.up.weight", LoraRole::up},
      {"_lora.down.weight", LoraRole::down},
      {"_lora.up.weight", LoraRole::up},
      {".lora_linear_layer.down.weight", LoraRole::down},
      {".lora_linear_layer.up.weight", LoraRole::up},
      {".alpha", LoraRole::alpha},
  };
  for (const auto& [ending, role] : endings) {
    if (tensor.size() > ending.size() && tensor.ends_with(ending))
      return LoraTensorName{std::string(tensor.substr(0, tensor.size() - ending.size())), role};
  }
  return std::nullopt;
}

LoraNames::LoraNames(const LoraTargets& targets) {
  for (const LoraTarget& target : targets) {
    const auto add = [&](const std::string& name, LoraNaming naming) { modules_[name] = {target.name, naming}; };
    if (target.part != LoraPart::unet) {
      const bool first = target.part == LoraPart::clip_l;
      const std::string path = (first ? "text_encoder." : "text_encoder_2.") + target.path;
      add(target.name, LoraNaming::kohya_text);
      add(path, LoraNaming::diffusers);
      add("base_model.model." + path, LoraNaming::peft);
      add((first ? "text_encoders.clip_l.transformer." : "text_encoders.clip_g.transformer.") + target.path,
          LoraNaming::comfyui);
      continue;
    }
    add(target.name, LoraNaming::kohya);
    add("diffusion_model." + target.path, LoraNaming::comfyui);
    const std::string& path = target.diffusers_path;
    if (path.empty()) continue;
    add("lora_unet_" + with_underscores(path), LoraNaming::kohya_diffusers);
    add("lycoris_" + with_underscores(path), LoraNaming::lycoris);
    add("unet." + path, LoraNaming::diffusers);
    if (const std::string old = in_processor(path); !old.empty()) add("unet." + old, LoraNaming::diffusers);
    add("base_model.model." + path, LoraNaming::peft);
    add("base_model.model.unet." + path, LoraNaming::peft);
  }
}

const LoraNames::Module* LoraNames::find(const std::string& name) const {
  const auto found = modules_.find(name);
  return found == modules_.end() ? nullptr : &found->second;
}

}  // namespace eri
