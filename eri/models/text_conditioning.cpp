#include "eri/models/text_conditioning.h"

#include <algorithm>
#include <numeric>

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {

using namespace flame;

namespace {

constexpr int64_t kLength = ClipTokenizer::kLength;

bool has_weights(const ClipChunk& chunk) {
  return std::any_of(chunk.weights.begin(), chunk.weights.end(), [](float weight) { return weight != 1; });
}

// Each state moved away from the empty prompt's at its place, by its weight; those of weight 1 stay as they are.
Tensor weighted(const Tensor& hidden, const Tensor& empty, std::span<const ClipChunk> chunks) {
  std::vector<float> weights;
  for (const ClipChunk& chunk : chunks) weights.insert(weights.end(), chunk.weights.begin(), chunk.weights.end());
  const Tensor weight = Tensor::from(weights, {std::ssize(chunks), kLength, 1}, hidden.device());
  const Tensor z = hidden.to(DType::f32), from = empty.to(DType::f32), one = Tensor::ones({}, DType::f32, z.device());
  return where(equal(weight, one), z, (z - from) * weight + from).to(hidden.dtype());
}

TextConditioning side_by_side(const TextEncoding& l, const TextEncoding& g) {
  require(g.pooled.defined(), "TextEncoders", "expected a CLIP-G with a text_projection, the checkpoint has none");
  return {.context = concat({l.hidden, g.hidden}, 2), .pooled = g.pooled};  // [N, T, C], [N, P]
}

}  // namespace

Tensor ids_of(std::span<const ClipChunk> chunks, Device device) {
  std::vector<int32_t> ids;
  for (const ClipChunk& chunk : chunks) ids.insert(ids.end(), chunk.ids.begin(), chunk.ids.end());
  return Tensor::from(ids, {std::ssize(chunks), kLength}, device);
}

Tensor caption_ids(const ClipTokenizer& tokenizer, int32_t pad, std::span<const std::string> captions, int64_t chunks,
                   Device device) {
  std::vector<ClipChunk> all;
  for (const std::string& caption : captions) {
    for (const ClipChunk& chunk : caption_chunks(tokenizer.encode(caption), chunks, pad)) all.push_back(chunk);
  }
  return ids_of(all, device).view({std::ssize(captions), chunks, kLength});
}

TextEncoding encode_captions(const CLIPTextEncoder& encoder, const Tensor& ids) {
  const int64_t n = ids.dim(0), chunks = ids.dim(1);
  const auto [hidden, pooled] = encoder.encode(ids.view({n * chunks, kLength}));  // [N chunks, 77, width]
  if (chunks == 1) return {hidden, pooled};
  const int64_t width = hidden.dim(2);
  const Tensor whole = hidden.reshape({n, chunks * kLength, width});
  const Tensor inner = hidden.narrow(1, 1, kChunkTokens).reshape({n, chunks * kChunkTokens, width});
  const Tensor start = whole.narrow(1, 0, 1), end = whole.narrow(1, chunks * kLength - 1, 1);
  TextEncoding result = {.hidden = concat({start, inner, end}, 1), .pooled = {}};
  if (pooled.defined())
    result.pooled = pooled.reshape({n, chunks, pooled.dim(1)}).narrow(1, 0, 1).reshape({n, pooled.dim(1)});
  return result;
}

TextEncoding encode_prompts(const CLIPTextEncoder& encoder, const ClipTokenizer& tokenizer, int32_t pad,
                            std::span<const std::string> prompts) {
  std::vector<ClipChunk> all;
  std::vector<int64_t> counts;
  int64_t most = 1;
  for (const std::string& prompt : prompts) {
    const auto chunks = prompt_chunks(tokenizer, prompt, pad);
    all.insert(all.end(), chunks.begin(), chunks.end());
    counts.push_back(std::ssize(chunks));
    most = std::lcm(most, counts.back());
  }
  const int64_t total = std::ssize(all);
  const bool moves = std::any_of(all.begin(), all.end(), has_weights);
  if (moves) all.push_back(prompt_chunks(tokenizer, "", pad).front());
  auto [hidden, pooled] = encoder.encode(ids_of(all, encoder.device()));  // [total, 77, width], or one more
  if (moves) hidden = weighted(hidden.narrow(0, 0, total), hidden.narrow(0, total, 1), std::span(all).first(total));

  std::vector<Tensor> contexts, firsts;
  int64_t begin = 0;
  for (const int64_t count : counts) {
    const Tensor context = hidden.narrow(0, begin, count).reshape({1, count * kLength, hidden.dim(2)});
    contexts.push_back(count == most ? context : repeat(context, 1, most / count));
    if (pooled.defined()) firsts.push_back(pooled.narrow(0, begin, 1));
    begin += count;
  }
  return {.hidden = concat(contexts, 0), .pooled = firsts.empty() ? Tensor() : concat(firsts, 0)};
}

TextEncoders TextEncoders::from_safetensors(const std::filesystem::path& path, Device device, DType dtype) {
  return from_checkpoint(Checkpoint(path), device, dtype);
}

TextEncoders TextEncoders::from_checkpoint(const Checkpoint& checkpoint, Device device, DType dtype) {
  return {.tokenizer = {},
          .clip_l = CLIPTextEncoder::from_checkpoint(checkpoint, TextPart::clip_l, device, dtype),
          .clip_g = CLIPTextEncoder::from_checkpoint(checkpoint, TextPart::clip_g, device, dtype)};
}

Tensor TextEncoders::caption_ids(std::span<const std::string> captions, int64_t chunks, Device device) const {
  const auto ids = [&](int32_t pad) { return eri::caption_ids(tokenizer, pad, captions, chunks, device); };
  return stack({ids(ClipTokenizer::kPadL), ids(ClipTokenizer::kPadG)}, 1);
}

TextConditioning TextEncoders::encode(const Tensor& caption_ids) const {
  require(caption_ids.rank() == 4 && caption_ids.dim(1) == 2 && caption_ids.dim(3) == kLength, "TextEncoders",
          "expected ids [N, 2, chunks, ", kLength, "], got ", caption_ids.shape());
  const auto ids = [&](int64_t encoder) {
    return caption_ids.narrow(1, encoder, 1).view(caption_ids.shape().without(1));
  };
  return side_by_side(encode_captions(clip_l, ids(0)), encode_captions(clip_g, ids(1)));
}

TextConditioning TextEncoders::captions(std::span<const std::string> captions, int64_t chunks) const {
  return encode(caption_ids(captions, chunks, clip_l.device()));
}

TextConditioning TextEncoders::prompts(std::span<const std::string> prompts) const {
  return side_by_side(encode_prompts(clip_l, tokenizer, ClipTokenizer::kPadL, prompts),
                      encode_prompts(clip_g, tokenizer, ClipTokenizer::kPadG, prompts));
}

}  // namespace eri
