#pragma once

#include <span>
#include <string>

#include "eri/data/clip_chunks.h"
#include "eri/models/checkpoint.h"
#include "eri/models/clip_text.h"

namespace eri {

// What SDXL's UNet is told of a text.
struct TextConditioning {
  Tensor context;  // [N, T, C]: both encoders' hidden states side by side
  Tensor pooled;   // [N, P]: CLIP-G's, of a text's first chunk
};

Tensor ids_of(std::span<const ClipChunk> chunks, flame::Device device);  // [chunks, 77] i32

// Texts through one CLIP encoder; behind the end of each stands `pad`. The pooled vectors are those of first chunks,
// none without a projection.
//
// Captions as sd-scripts trains on them with max_token_length = 75 chunks: their ids [N, chunks, 77] i32, and of these
// the chunks' states without the starts and ends between them, [N, 75 chunks + 2, width].
Tensor caption_ids(const ClipTokenizer& tokenizer, int32_t pad, std::span<const std::string> captions, int64_t chunks,
                   flame::Device device);
TextEncoding encode_captions(const CLIPTextEncoder& encoder, const Tensor& ids);
// Prompts as ComfyUI draws them: all chunks whole, each state moved away from that of an empty prompt by its weight.
// One of fewer chunks than others is repeated, which attention does not see: [N, 77 k, width].
TextEncoding encode_prompts(const CLIPTextEncoder& encoder, const ClipTokenizer& tokenizer, int32_t pad,
                            std::span<const std::string> prompts);

// The two text encoders of SDXL and their common tokenizer.
struct TextEncoders {
  ClipTokenizer tokenizer;
  CLIPTextEncoder clip_l, clip_g;

  static TextEncoders from_safetensors(const std::filesystem::path& path, flame::Device device = flame::Device::cpu(),
                                       flame::DType dtype = flame::DType::f32);
  static TextEncoders from_checkpoint(const Checkpoint& checkpoint, flame::Device device, flame::DType dtype);
  // What captions() encodes: [N, 2, chunks, 77] i32, for CLIP-L and CLIP-G.
  Tensor caption_ids(std::span<const std::string> captions, int64_t chunks, flame::Device device) const;
  // Reads only the device, so that it can be captured; gradients go through it to adapters.
  TextConditioning encode(const Tensor& caption_ids) const;
  TextConditioning captions(std::span<const std::string> captions, int64_t chunks = 1) const;
  TextConditioning prompts(std::span<const std::string> prompts) const;
};

}  // namespace eri
