#pragma once

#include "case.h"
#include "eri/lora/lora.h"
#include "eri/models/autoencoder_kl.h"
#include "eri/models/text_conditioning.h"
#include "eri/models/unet.h"

namespace eri::parity {

// The models of a case: its checkpoint, or its geometry's synthetic one, of which only the part asked for is made.
UNet make_unet(const Case& c);
AutoencoderKL make_vae(const Case& c);
CLIPTextEncoder make_clip_l(const Case& c);
CLIPTextEncoder make_clip_g(const Case& c);
TextEncoders make_text_encoders(const Case& c);

LoRA read_lora(const Case& c, const LoraTargets& targets);

// Adds the gradients of a pack's parameters to `results`, as "grad." and the name in a LoRA file.
void add_gradients(Tensors& results, const flame::ParameterPack& pack);

}  // namespace eri::parity
