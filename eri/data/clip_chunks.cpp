#include "eri/data/clip_chunks.h"

#include <algorithm>

#include "eri/data/prompt_weights.h"
#include "flame/core/error.h"

namespace eri {
namespace {

ClipChunk empty_chunk(int32_t pad) {
  ClipChunk chunk;
  chunk.ids.fill(pad);
  chunk.ids[0] = ClipTokenizer::kStart;
  chunk.weights.fill(1);
  return chunk;
}

// Fills one chunk after the other.
class Packer {
 public:
  explicit Packer(int32_t pad) : pad_(pad), chunks_{empty_chunk(pad)} {}

  void add(std::span<const int32_t> ids, float weight) {
    constexpr size_t long_part = 8;
    const bool may_be_cut = ids.size() >= long_part;
    while (!ids.empty()) {
      const size_t room = static_cast<size_t>(kChunkTokens) - used_;
      const size_t taken = ids.size() <= room ? ids.size() : may_be_cut ? room : 0;
      for (size_t i = 0; i < taken; ++i, ++used_) {
        chunks_.back().ids[1 + used_] = ids[i];
        chunks_.back().weights[1 + used_] = weight;
      }
      ids = ids.subspan(taken);
      if (!ids.empty()) begin_chunk();
    }
  }

  std::vector<ClipChunk> chunks() && {
    end_chunk();
    return std::move(chunks_);
  }

 private:
  void end_chunk() { chunks_.back().ids[1 + used_] = ClipTokenizer::kEnd; }
  void begin_chunk() {
    end_chunk();
    chunks_.push_back(empty_chunk(pad_));
    used_ = 0;
  }

  int32_t pad_;
  std::vector<ClipChunk> chunks_;
  size_t used_ = 0;  // of the last chunk
};

}  // namespace

std::vector<ClipChunk> prompt_chunks(const ClipTokenizer& tokenizer, std::string_view prompt, int32_t pad) {
  Packer packer(pad);
  for (const auto& [text, weight] : parse_prompt_weights(prompt))
    packer.add(tokenizer.encode(text), static_cast<float>(weight));
  return std::move(packer).chunks();
}

std::vector<ClipChunk> caption_chunks(std::span<const int32_t> ids, int64_t count, int32_t pad) {
  flame::require(count > 0, "caption_chunks", "expected 1 chunk or more, got ", count);
  // The ids of the whole, with one end behind the caption.
  const auto room = static_cast<size_t>(kChunkTokens * count);
  std::vector<int32_t> all(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(ids.size(), room)));
  all.push_back(ClipTokenizer::kEnd);
  all.resize(room + 1, pad);
  const bool pads_with_end = pad == ClipTokenizer::kEnd;
  std::vector<ClipChunk> chunks;
  for (int64_t i = 0; i < count; ++i) {
    ClipChunk& chunk = chunks.emplace_back(empty_chunk(pad));
    std::copy_n(all.begin() + i * kChunkTokens, kChunkTokens, chunk.ids.begin() + 1);
    const int32_t last = chunk.ids[kChunkTokens];
    // sd-scripts ends every chunk like the whole; then, where padding is not the end, mends what that leaves without.
    chunk.ids.back() = all.back();
    if (count == 1 || pads_with_end) continue;
    if (last != ClipTokenizer::kEnd && last != pad) chunk.ids.back() = ClipTokenizer::kEnd;
    if (chunk.ids[1] == pad) chunk.ids[1] = ClipTokenizer::kEnd;
  }
  return chunks;
}

}  // namespace eri
