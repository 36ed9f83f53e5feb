#pragma once

#include <string>

#include "eri/models/weight_files.h"

namespace eri {

// What weights are of, told by the names and shapes of their tensors.
struct FileKind {
  enum class Use { whole, unet, vae, text_encoder, lora, none };  // what for we can take it

  std::string id;    // for programs: "sdxl", "sd15", "lora"
  std::string what;  // for people: "a LoRA"
  Use use = Use::none;
  std::string remedy;  // where a base model is needed, what to do with this; empty: nothing
};
FileKind kind_of(const WeightFiles::Entries& entries);

}  // namespace eri
