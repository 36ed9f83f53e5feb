#include "eri/models/text_conditioning.h"

#include "flame/ops/layout.h"

namespace eri {

using namespace flame;

TextEncoders TextEncoders::from_safetensors(const std::filesystem::path& path, Device device, DType dtype) {
  return from_checkpoint(Checkpoint(path), device, dtype);
}

TextEncoders TextEncoders::from_checkpoint(const Checkpoint& checkpoint, Device device, DType dtype) {
  return {.tokenizer = {},
          .clip_l = CLIPTextEncoder::from_checkpoint(checkpoint, TextPart::clip_l, device, dtype),
          .clip_g = CLIPTextEncoder::from_checkpoint(checkpoint, TextPart::clip_g, device, dtype)};
}

TokenIds TextEncoders::tokenize(std::span<const std::string> captions) const {
  std::vector<int32_t> ids_l, ids_g;
  for (const std::string& caption : captions) {
    const std::vector<int32_t> ids = tokenizer.encode(caption);
    const auto l = ClipTokenizer::frame(ids, ClipTokenizer::kPadL).ids;
    const auto g = ClipTokenizer::frame(ids, ClipTokenizer::kPadG).ids;
    ids_l.insert(ids_l.end(), l.begin(), l.end());
    ids_g.insert(ids_g.end(), g.begin(), g.end());
  }
  const Shape shape{std::ssize(captions), ClipTokenizer::kLength};
  return {Tensor::from(ids_l, shape, clip_l.device()), Tensor::from(ids_g, shape, clip_g.device())};
}

TextConditioning TextEncoders::encode(const TokenIds& ids) const {
  const TextEncoding l = clip_l.encode(ids.clip_l), g = clip_g.encode(ids.clip_g);
  require(g.pooled.defined(), "TextEncoders", "expected a CLIP-G with a text_projection, the checkpoint has none");
  return {.context = concat({l.hidden, g.hidden}, 2), .pooled = g.pooled};  // [N, 77, C], [N, P]
}

}  // namespace eri
