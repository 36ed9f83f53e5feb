#include "eri/data/precompiled_charsmap.h"

#include <unicode/brkiter.h>
#include <unicode/utext.h>

#include <cstring>

#include "eri/data/utf8.h"
#include "flame/core/error.h"

namespace eri {
namespace {

// The ends of the text's graphemes, as offsets of bytes.
std::vector<size_t> grapheme_ends(std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  const std::unique_ptr<icu::BreakIterator> graphemes(
      icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
  UText bytes = UTEXT_INITIALIZER;
  utext_openUTF8(&bytes, text.data(), static_cast<int64_t>(text.size()), &status);
  if (U_SUCCESS(status)) graphemes->setText(&bytes, status);
  if (U_FAILURE(status)) flame::fail("tokenize: ICU cannot find characters: ", u_errorName(status));
  std::vector<size_t> ends;
  for (int32_t end = graphemes->next(); end != icu::BreakIterator::DONE; end = graphemes->next()) ends.push_back(end);
  utext_close(&bytes);
  return ends;
}

// A node of the trie (Darts-clone's format).
struct Unit {
  uint32_t bits;
  bool has_leaf() const { return bits >> 8 & 1; }
  uint32_t value() const { return bits & 0x7fffffff; }
  uint32_t label() const { return bits & 0x800000ff; }
  uint32_t offset() const { return bits >> 10 << ((bits & 1 << 9) >> 6); }
};

}  // namespace

PrecompiledCharsmap::PrecompiledCharsmap(std::string_view bytes) {
  uint32_t size = 0;
  if (bytes.size() >= sizeof size) std::memcpy(&size, bytes.data(), sizeof size);
  if (size == 0 || size % 4 != 0 || size > bytes.size() - sizeof size)
    flame::fail("precompiled_charsmap: the rules are cut off");
  trie_.resize(size / 4);
  std::memcpy(trie_.data(), bytes.data() + sizeof size, size);
  replacements_ = bytes.substr(sizeof size + size);
}

std::optional<std::string_view> PrecompiledCharsmap::replacement(std::string_view text) const {
  size_t at = 0;
  const auto unit = [&] { return Unit{at < trie_.size() ? trie_[at] : 0}; };
  at ^= unit().offset();
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    at ^= byte;
    if (byte == 0 || unit().label() != byte) return std::nullopt;
    const bool ends = unit().has_leaf();
    at ^= unit().offset();
    if (!ends) continue;
    const uint32_t begin = unit().value();
    if (begin > replacements_.size()) return std::nullopt;
    return std::string_view(replacements_).substr(begin, replacements_.find('\0', begin) - begin);
  }
  return std::nullopt;
}

std::string PrecompiledCharsmap::normalize(std::string_view text) const {
  constexpr size_t short_grapheme = 6;
  std::string result;
  size_t begin = 0;
  for (const size_t end : grapheme_ends(text)) {
    std::string_view grapheme = text.substr(begin, end - begin);
    begin = end;
    if (grapheme.size() < short_grapheme) {
      if (const auto whole = replacement(grapheme)) {
        result += *whole;
        continue;
      }
    }
    while (!grapheme.empty()) {
      const std::string_view before = grapheme;
      take_code_point(grapheme);
      const std::string_view character = before.substr(0, before.size() - grapheme.size());
      result += replacement(character).value_or(character);
    }
  }
  return result;
}

}  // namespace eri
