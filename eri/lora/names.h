#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eri/lora/targets.h"

namespace eri {

// The schemes by which files name the modules of a LoRA. sd-scripts' text encoders are called the same in both of its.
enum class LoraNaming { kohya_text, kohya, kohya_diffusers, lycoris, diffusers, peft, comfyui };
const char* describe(LoraNaming naming);  // for messages: "kohya's names with diffusers' block numbers"

enum class LoraRole { down, up, alpha };

// A tensor's name in a file, in any of the spellings that ComfyUI knows: MODULE.lora_down.weight, MODULE.lora_A.weight,
// MODULE_lora.down.weight and so on; none if it is nothing of the kind.
struct LoraTensorName {
  std::string module;
  LoraRole role;
};
std::optional<LoraTensorName> split_lora_name(std::string_view tensor);

// What a module's tensors are called in a file; empty: it has none.
struct LoraModuleTensors {
  std::string down, up, alpha;
  std::string& of(LoraRole role) { return role == LoraRole::down ? down : role == LoraRole::up ? up : alpha; }
};

// What the files of other programs call the modules of a model.
class LoraNames {
 public:
  explicit LoraNames(const LoraTargets& targets);
  struct Module {
    std::string name;  // sd-scripts'
    LoraNaming naming;
  };
  const Module* find(const std::string& name) const;  // null: no layer of the model is called that anywhere

 private:
  std::map<std::string, Module> modules_;
};

}  // namespace eri
