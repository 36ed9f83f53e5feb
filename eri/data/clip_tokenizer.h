#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace eri {

// Text to the ids of CLIP, whose vocabulary SDXL's two text encoders share. Equal to transformers' CLIPTokenizer: NFC,
// lower case, byte pairs inside of words; no HTML unescaping, no repair of broken encodings. Characters
// newer than Unicode 15.0 are unknown to ICU 72 and may be split differently.
class ClipTokenizer {
 public:
  static constexpr int32_t kStart = 49406, kEnd = 49407;
  static constexpr int32_t kPadL = kEnd, kPadG = 0;  // what SDXL puts behind the end for CLIP-L and CLIP-G
  static constexpr size_t kLength = 77;              // of what a text encoder takes at once: clip_chunks.h

  ClipTokenizer();

  // All ids of a UTF-8 text, without start and end. Throws flame::Error with the byte offset if it is not UTF-8.
  std::vector<int32_t> encode(std::string_view text) const;

 private:
  void append_text(std::string_view text, std::vector<int32_t>& ids) const;
  void append_word(std::string_view word, std::vector<int32_t>& ids) const;
  int32_t merged(int32_t left, int32_t right) const;

  std::array<int32_t, 256> byte_ids_;
  std::unordered_map<uint64_t, int32_t> merges_;  // a pair of ids -> their id together
};

}  // namespace eri
