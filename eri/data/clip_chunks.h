#pragma once

#include <array>
#include <span>

#include "eri/data/clip_tokenizer.h"

namespace eri {

// What CLIP takes at once: start, 75 ids, end; or with the end earlier and padding behind it.
struct ClipChunk {
  std::array<int32_t, ClipTokenizer::kLength> ids;
  std::array<float, ClipTokenizer::kLength> weights;  // how strongly each is meant, 1 as it is
};
constexpr int64_t kChunkTokens = ClipTokenizer::kLength - 2;

// A prompt in as many chunks as it needs, as ComfyUI packs them: each weighted part stays in one chunk if it has fewer
// than 8 tokens, and longer ones are cut where the chunk is full. Behind the end stands `pad`.
std::vector<ClipChunk> prompt_chunks(const ClipTokenizer& tokenizer, std::string_view prompt, int32_t pad);

// A caption's ids in `count` chunks, as sd-scripts cuts them with max_token_length = 75 count: what is beyond is left
// out, and all chunks are there however short the caption is.
std::vector<ClipChunk> caption_chunks(std::span<const int32_t> ids, int64_t count, int32_t pad);

}  // namespace eri
