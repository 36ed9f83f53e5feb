#include "eri/data/clip_tokenizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include <algorithm>
#include <limits>
#include <sstream>
#include <string>

#include "eri/data/utf8.h"
#include "eri/data/vocab/clip_merges.h"
#include "flame/core/error.h"

namespace eri {
namespace {

constexpr std::string_view kStartText = "<|startoftext|>", kEndText = "<|endoftext|>";
constexpr int32_t kWordEnd = 256;  // from the id of a byte to that of the same byte at the end of a word
constexpr int32_t kNoMerge = std::numeric_limits<int32_t>::max();

// NFC of Unicode 9, as in the tokenizers library: to it a newer combining mark is no mark, and stops composition.
std::string compose(std::string_view text) {
  static UErrorCode loaded = U_ZERO_ERROR;
  static const icu::UnicodeSet known(u"[:age=9.0:]", loaded);
  static const icu::Normalizer2* const newest = icu::Normalizer2::getNFCInstance(loaded);
  UErrorCode status = loaded;
  std::string composed;
  icu::StringByteSink<std::string> sink(&composed);
  if (U_SUCCESS(status)) icu::FilteredNormalizer2(*newest, known).normalizeUTF8(0, text, sink, nullptr, status);
  if (U_FAILURE(status)) flame::fail("tokenize: ICU cannot compose: ", u_errorName(status));
  return composed;
}

std::string lower_case(std::string_view text) {
  std::string lower;
  for (std::string_view rest = text; !rest.empty();) {
    const UChar32 c = take_code_point(rest);
    append_code_point(u_tolower(c), lower);
    if (c == 0x130)
      append_code_point(0x307, lower);  // the one letter whose lower case is two whatever stands around it
  }
  return lower;
}

enum class Kind { space, letter, number, other };

Kind kind_of(UChar32 c) {
  if (u_isUWhiteSpace(c)) return Kind::space;
  const uint32_t category = U_GET_GC_MASK(c);
  return category & U_GC_L_MASK ? Kind::letter : category & U_GC_N_MASK ? Kind::number : Kind::other;
}

// Takes the next word off the front: a contraction, letters, one number, or a run of anything else. Empty for spaces.
std::string_view take_word(std::string_view& text) {
  for (std::string_view contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.starts_with(contraction)) {
      text.remove_prefix(contraction.size());
      return contraction;
    }
  }
  std::string_view rest = text;
  const Kind kind = kind_of(take_code_point(rest));
  for (std::string_view next = rest; kind != Kind::number && !next.empty() && kind_of(take_code_point(next)) == kind;)
    rest = next;
  const std::string_view word = text.substr(0, text.size() - rest.size());
  text = rest;
  return kind == Kind::space ? "" : word;
}

constexpr uint64_t pair(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

ClipTokenizer::ClipTokenizer() {
  // The merges write a byte as one visible character: itself or, in second place, the next from U+0100 on.
  std::unordered_map<std::string, int32_t> ids;
  const auto is_visible = [](int byte) { return (byte > 32 && byte < 127) || (byte > 160 && byte != 173); };
  int32_t id = 0;
  UChar32 substitute = 0x100;
  for (const bool visible : {true, false}) {
    for (int byte = 0; byte < 256; ++byte) {
      if (is_visible(byte) != visible) continue;
      std::string symbol;
      append_code_point(visible ? byte : substitute++, symbol);
      ids[symbol] = id;
      ids[symbol + "</w>"] = id + kWordEnd;
      byte_ids_[byte] = id++;
    }
  }
  id += kWordEnd;
  std::istringstream merges(clip_merges());
  for (std::string left, right; merges >> left >> right; ++id) {
    merges_[pair(ids.at(left), ids.at(right))] = id;
    ids[left + right] = id;
  }
  if (id != kStart) flame::fail("tokenize: the vocabulary has ", id, " ids in front of the special ones, not ", kStart);
}

std::vector<int32_t> ClipTokenizer::encode(std::string_view text) const {
  require_utf8(text);
  std::vector<int32_t> ids;
  while (true) {
    const size_t start = text.find(kStartText), end = text.find(kEndText), first = std::min(start, end);
    append_text(text.substr(0, first), ids);
    if (first == text.npos) return ids;
    ids.push_back(start < end ? kStart : kEnd);
    text.remove_prefix(first + (start < end ? kStartText : kEndText).size());
  }
}

void ClipTokenizer::append_text(std::string_view text, std::vector<int32_t>& ids) const {
  const std::string normal = lower_case(compose(text));
  for (std::string_view rest = normal; !rest.empty();) {
    // One that became this only by lower-casing is plain text, yet nothing behind it joins its last word.
    const size_t marker = rest.starts_with(kStartText) ? kStartText.size()
                          : rest.starts_with(kEndText) ? kEndText.size()
                                                       : 0;
    for (std::string_view part = rest.substr(0, marker); !part.empty();) append_word(take_word(part), ids);
    rest.remove_prefix(marker);
    if (marker == 0) append_word(take_word(rest), ids);
  }
}

void ClipTokenizer::append_word(std::string_view word, std::vector<int32_t>& ids) const {
  if (word.empty()) return;
  const size_t first = ids.size();
  for (const unsigned char byte : word) ids.push_back(byte_ids_[byte]);
  ids.back() += kWordEnd;
  while (true) {
    int32_t best = kNoMerge;  // ids count the merges, so that the lowest is the one to do first
    for (size_t i = first + 1; i < ids.size(); ++i) best = std::min(best, merged(ids[i - 1], ids[i]));
    if (best == kNoMerge) return;
    size_t kept = first;
    for (size_t i = first; i < ids.size(); ++i) {
      const bool merge = i + 1 < ids.size() && merged(ids[i], ids[i + 1]) == best;
      ids[kept++] = merge ? best : ids[i];
      i += merge;
    }
    ids.resize(kept);
  }
}

int32_t ClipTokenizer::merged(int32_t left, int32_t right) const {
  const auto found = merges_.find(pair(left, right));
  return found == merges_.end() ? kNoMerge : found->second;
}

}  // namespace eri
