#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "eri/lora/programs.h"
#include "eri/lora/targets.h"

namespace eri {

// What a LoRA file is worth to the programs that load it: complaints, none if all is well.
struct LoraReport {
  std::vector<std::string> complaints;
  size_t modules = 0;
  size_t without_effect = 0;   // modules whose `up` is zero
  std::string ranks;           // for people: "16", or "4 to 16"
  std::vector<Loaded> loaded;  // how many modules each program takes
};

// Checks the contract that ComfyUI, A1111, Forge and diffusers load completely: kohya's names with LDM block numbers,
// F16, a 0-d alpha for each module, shapes that fit the model's layers (`targets`), finite values, at least one module
// with an effect, canonical layout, metadata with right hashes. Throws only where the file cannot be read at all.
LoraReport verify_lora(const std::filesystem::path& file, const LoraTargets& targets);

}  // namespace eri
