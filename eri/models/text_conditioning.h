#pragma once

#include <span>
#include <string>

#include "eri/data/clip_tokenizer.h"
#include "eri/models/checkpoint.h"
#include "eri/models/clip_text.h"

namespace eri {

// What SDXL's UNet is told of a text.
struct TextConditioning {
  Tensor context;  // [N, 77, C]: both encoders' hidden states side by side
  Tensor pooled;   // [N, P]: CLIP-G's
};

struct TokenIds {
  Tensor clip_l, clip_g;  // [N, 77] i32; they differ in what stands behind the end
};

// The two text encoders of SDXL and their common tokenizer.
struct TextEncoders {
  ClipTokenizer tokenizer;
  CLIPTextEncoder clip_l, clip_g;

  static TextEncoders from_safetensors(const std::filesystem::path& path, flame::Device device = flame::Device::cpu(),
                                       flame::DType dtype = flame::DType::f32);
  static TextEncoders from_checkpoint(const Checkpoint& checkpoint, flame::Device device, flame::DType dtype);
  TokenIds tokenize(std::span<const std::string> captions) const;
  TextConditioning encode(const TokenIds& ids) const;
  TextConditioning encode(std::span<const std::string> captions) const { return encode(tokenize(captions)); }
};

}  // namespace eri
