#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace eri {

// SentencePiece's compiled normalisation rules: a double-array trie of what is replaced, and the replacements.
class PrecompiledCharsmap {
 public:
  PrecompiledCharsmap() = default;
  // The bytes of `precompiled_charsmap`. Throws if they are cut off.
  explicit PrecompiledCharsmap(std::string_view bytes);

  // The text as the tokenizers library normalises it: grapheme by grapheme where these are short, else by code point.
  std::string normalize(std::string_view text) const;

 private:
  // What stands for the shortest beginning of `text` that has a rule.
  std::optional<std::string_view> replacement(std::string_view text) const;

  std::vector<uint32_t> trie_;
  std::string replacements_;  // each ends with a zero
};

}  // namespace eri
