#include "eri/lora/programs.h"

#include <algorithm>

namespace eri {
namespace {

bool has(const std::string& text, const char* part) { return text.find(part) != text.npos; }

// diffusers fails where it does not know a name: of LyCORIS, of ComfyUI, or an alpha beside its own names.
bool diffusers_fails(const flame::SafetensorsFile& file, const LoraNames& names) {
  return std::any_of(file.entries().begin(), file.entries().end(), [&](const auto& entry) {
    const auto parts = split_lora_name(entry.first);
    const auto* module = parts ? names.find(parts->module) : nullptr;
    return !module || module->naming == LoraNaming::lycoris || module->naming == LoraNaming::comfyui ||
           (module->naming == LoraNaming::diffusers && parts->role == LoraRole::alpha);
  });
}

}  // namespace

const char* name_of(Program program) {
  constexpr std::array names = {"ComfyUI", "Forge", "A1111", "diffusers", "sd-scripts", "sd.cpp"};
  return names[static_cast<size_t>(program)];
}

bool loads(Program program, const LoraNames::Module& module, const std::string& written) {
  const bool comfyui = program == Program::comfyui, forge = program == Program::forge;
  const bool text_encoder = module.name.starts_with("lora_te");
  switch (module.naming) {
    case LoraNaming::kohya_text:
    case LoraNaming::kohya:
      return true;
    case LoraNaming::kohya_diffusers:  // A1111 takes this one for Stable Diffusion 1's
      return program != Program::a1111 || written != "lora_unet_up_blocks_0_upsamplers_0_conv";
    case LoraNaming::lycoris:
      return comfyui || forge;
    case LoraNaming::diffusers:
      if (comfyui || forge) return text_encoder || !has(written, ".attn") || has(written, ".processor.");
      return program == Program::diffusers || (program == Program::sd_cpp && !text_encoder);
    case LoraNaming::comfyui:
      return comfyui || ((forge || program == Program::sd_cpp) && !text_encoder);
    case LoraNaming::peft:
      return false;
  }
  return false;
}

std::vector<Loaded> modules_loaded(const flame::SafetensorsFile& file, const LoraTargets& targets) {
  const LoraNames names(targets);
  const bool not_in_diffusers = diffusers_fails(file, names);
  std::vector<Loaded> result;
  for (const Program program : programs) {
    Loaded& loaded = result.emplace_back(Loaded{program, 0});
    if (program == Program::diffusers && not_in_diffusers) continue;
    for (const auto& [tensor, entry] : file.entries()) {
      const auto parts = split_lora_name(tensor);
      if (!parts || parts->role != LoraRole::down) continue;
      const auto* module = names.find(parts->module);
      loaded.modules += module && loads(program, *module, parts->module);
    }
  }
  return result;
}

}  // namespace eri
