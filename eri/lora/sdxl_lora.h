#pragma once

#include <filesystem>

#include "eri/lora/lora.h"
#include "eri/models/checkpoint.h"
#include "eri/models/clip_text.h"
#include "eri/models/unet.h"

namespace eri {

// Every layer of SDXL that a LoRA may have.
LoraTargets sdxl_lora_targets(const UNet& unet, const CLIPTextEncoder& clip_l, const CLIPTextEncoder& clip_g);

// Those of a checkpoint, for their names and shapes: weights in f16 files are mapped and not converted, so that this is
// quick at full size.
LoraTargets sdxl_lora_targets(const Checkpoint& checkpoint, bool text_encoders);

// Their places, by the names and shapes of a checkpoint's weights alone.
LoraSites sdxl_lora_sites(const Checkpoint& checkpoint);

// new_lora with random `up`, too: a file that changes every module, for trying out programs.
LoRA random_lora(const LoraTargets& targets, const LoraOptions& options);

}  // namespace eri
