#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "eri/lora/lora.h"
#include "eri/models/checkpoint.h"

namespace eri {

// The metadata of a LoRA file, complete with hashes: what its tensors say, then `about`. `tensors` are those of the
// file. Every value is a string, as Python's str() would give it.
flame::Metadata lora_metadata(const LoRA& lora, const std::map<std::string, flame::Tensor>& tensors,
                              const std::string& title, const flame::Metadata& about);

// What sd-scripts notes of the base model: ss_sd_model_name, ss_sd_model_hash and ss_new_sd_model_hash, and ss_vae_* of
// a VAE of its own. Reads all of the files; a folder has a name only.
flame::Metadata base_model_metadata(const ModelFiles& files);

std::string python_text(double value);  // 8 -> "8.0", 1e-4 -> "0.0001", 1e-5 -> "1e-05"

}  // namespace eri
