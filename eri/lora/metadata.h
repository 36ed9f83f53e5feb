#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "eri/lora/lora.h"
#include "eri/models/checkpoint.h"

namespace eri {

// The metadata of a LoRA file, complete with hashes: what its modules say, then `about`. `tensors` are those of the
// file, `name` is the file's own. Of minimal metadata only what programs need is left, and what people write themselves
// of the file: nothing of pictures, models, names and dates. Every value is a string, as Python's str() would give it.
flame::Metadata lora_metadata(const LoRA& lora, const std::map<std::string, flame::Tensor>& tensors,
                              const std::string& name, const flame::Metadata& about, MetadataDetail detail);

// What programs need to know a LoRA: family, kind, rank and alpha.
flame::Metadata describe_modules(const LoRA& lora);

// sshs_model_hash and sshs_legacy_hash of a file with these tensors and this metadata.
flame::Metadata lora_hashes(const std::map<std::string, flame::Tensor>& tensors, const flame::Metadata& metadata);

// What sd-scripts notes of the base model: ss_sd_model_name, ss_sd_model_hash and ss_new_sd_model_hash, and ss_vae_* of
// a VAE of its own. Reads all of the files; the hashes of a folder are "IsADirectory".
flame::Metadata base_model_metadata(const ModelFiles& files);

std::string python_text(double value);  // 8 -> "8.0", 1e-4 -> "0.0001", 1e-5 -> "1e-05"

}  // namespace eri
