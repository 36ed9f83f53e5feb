#include "eri/data/unigram_tokenizer.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "eri/data/utf8.h"
#include "flame/core/error.h"

namespace eri {
namespace {

constexpr std::string_view kMark = "\u2581";  // stands for a space

std::string base64(std::string_view text) {
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text.substr(0, text.find('='))) {
    const size_t digit = alphabet.find(c);
    if (digit == alphabet.npos) flame::fail("precompiled_charsmap: '", c, "' does not belong in base64");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if ((count += 6) < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<char>(bits >> count));
  }
  return bytes;
}

std::string stripped(std::string_view text, bool left, bool right) {
  const auto blank = [](std::string_view rest) { return u_isUWhiteSpace(take_code_point(rest)); };
  const auto take = [&] { take_code_point(text); };
  while (left && !text.empty() && blank(text)) take();
  for (size_t last = text.size(); right && !text.empty(); last = text.size()) {
    do --last;
    while (last > 0 && (text[last] & 0xC0) == 0x80);
    if (!blank(text.substr(last))) break;
    text = text.substr(0, last);
  }
  return std::string(text);
}

// Two and more spaces become one mark.
std::string collapsed(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const size_t spaces = std::min(text.find_first_not_of(' ', at), text.size()) - at;
    if (spaces > 1)
      result += kMark;
    else
      result += text[at];
    at += std::max<size_t>(spaces, 1);
  }
  return result;
}

std::string with_marks(std::string_view text) {
  std::string result;
  for (const char c : text) c == ' ' ? result += kMark : result += c;
  return result;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words(1);
  while (!text.empty()) {
    const UChar32 c = take_code_point(text);
    if (!u_isUWhiteSpace(c))
      append_code_point(c, words.back());
    else if (!words.back().empty())
      words.emplace_back();
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

}  // namespace

UnigramTokenizer::UnigramTokenizer(const std::string& text, const std::string& source) try {
  const auto json = nlohmann::json::parse(text);
  read_normalizer(json.at("normalizer"));
  read_pre_tokenizer(json.at("pre_tokenizer"));
  if (at_white_space_ && prepend_ == Prepend::first)
    flame::fail("pre_tokenizer: WhitespaceSplit does not go with Metaspace's prepend_scheme first");
  read_model(json.at("model"));
  for (const auto& token : json.at("added_tokens")) {
    for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) {
      if (token.value(flag, false))
        flame::fail("added_tokens: ", token.at("content"), " is ", flag, ", which T5's are not");
    }
    add_special(token.at("content"), token.at("id"));
  }
} catch (const nlohmann::json::exception& error) {
  flame::fail(source, ": not a T5 tokenizer.json: ", error.what());
} catch (const flame::Error& error) {
  flame::fail(source, ": ", error.what());
}

void UnigramTokenizer::read_normalizer(const nlohmann::json& json) {
  if (json.is_null()) return;
  const std::string type = json.at("type");
  if (type == "Sequence") {
    for (const auto& each : json.at("normalizers")) read_normalizer(each);
  } else if (type == "Precompiled") {
    const std::string rules = json.at("precompiled_charsmap");
    normalizers_.push_back({Normalizer::Kind::characters, PrecompiledCharsmap(base64(rules))});
  } else if (type == "Strip") {
    normalizers_.push_back({Normalizer::Kind::strip, {}, json.at("strip_left"), json.at("strip_right")});
  } else if (type == "Replace" && json.at("pattern") == nlohmann::json{{"Regex", " {2,}"}} &&
             json.at("content") == kMark) {
    normalizers_.push_back({Normalizer::Kind::collapse});
  } else {
    flame::fail("normalizer: expected T5's (Precompiled, Strip, Replace of several spaces), got ", json.dump());
  }
}

void UnigramTokenizer::read_pre_tokenizer(const nlohmann::json& json) {
  const std::string type = json.at("type");
  if (type == "Sequence") {
    for (const auto& each : json.at("pretokenizers")) read_pre_tokenizer(each);
  } else if (type == "WhitespaceSplit") {
    at_white_space_ = true;
  } else if (type == "Metaspace" && json.at("replacement") == kMark && json.value("split", true)) {
    const bool prefix = json.value("add_prefix_space", true);
    const std::string scheme = json.value("prepend_scheme", prefix ? "always" : "never");
    prepend_ = scheme == "always" ? Prepend::always : scheme == "first" ? Prepend::first : Prepend::never;
  } else {
    flame::fail("pre_tokenizer: expected T5's (Metaspace), got ", json.dump());
  }
}

void UnigramTokenizer::read_model(const nlohmann::json& json) {
  if (json.value("type", "") != "Unigram" || json.value("byte_fallback", false))
    flame::fail("expected a unigram model without byte fallback, as T5's, got ", json.value("type", "none"));
  const auto& vocabulary = json.at("vocab");
  unknown_ = json.at("unk_id");
  double least = std::numeric_limits<double>::max();
  texts_.reserve(vocabulary.size());  // the views stay valid
  for (const auto& entry : vocabulary) {
    const auto& text = texts_.emplace_back(entry.at(0));
    const double score = entry.at(1);
    pieces_.insert_or_assign(text, Piece{static_cast<int32_t>(texts_.size()) - 1, score});
    longest_ = std::max(longest_, text.size());
    least = std::min(least, score);
  }
  constexpr double penalty = 10;
  unknown_score_ = least - penalty;
}

void UnigramTokenizer::append(std::string_view text, bool first, std::vector<int32_t>& ids) const {
  std::string normal(text);
  for (const Normalizer& step : normalizers_) {
    switch (step.kind) {
      case Normalizer::Kind::characters:
        normal = step.map.normalize(normal);
        break;
      case Normalizer::Kind::strip:
        normal = stripped(normal, step.left, step.right);
        break;
      case Normalizer::Kind::collapse:
        normal = collapsed(normal);
        break;
    }
  }
  if (!at_white_space_) return add_word(std::move(normal), first, ids);
  for (std::string& word : words_of(normal)) add_word(std::move(word), std::exchange(first, false), ids);
}

// A word is cut in front of every mark.
void UnigramTokenizer::add_word(std::string word, bool first, std::vector<int32_t>& ids) const {
  std::string marked = with_marks(word);
  const bool wanted = prepend_ == Prepend::always || (prepend_ == Prepend::first && first);
  if (wanted && !marked.empty() && !marked.starts_with(kMark)) marked.insert(0, kMark);
  for (std::string_view rest = marked; !rest.empty();) {
    const size_t end = std::min(rest.find(kMark, 1), rest.size());
    add_pieces(rest.substr(0, end), ids);
    rest.remove_prefix(end);
  }
}

// The pieces with the largest sum of scores; neighbours that are unknown become one.
void UnigramTokenizer::add_pieces(std::string_view part, std::vector<int32_t>& ids) const {
  struct Best {
    double score = 0;
    size_t begin = std::string_view::npos;  // of the last piece
    int32_t id = 0;
  };
  std::vector<Best> best(part.size() + 1);  // of the pieces up to here
  const auto offer = [&](size_t begin, size_t end, int32_t id, double score) {
    if (best[end].begin == part.npos || score > best[end].score) best[end] = {score, begin, id};
  };
  for (size_t begin = 0, next = 0; begin < part.size(); begin = next) {
    std::string_view rest = part.substr(begin);
    take_code_point(rest);
    next = part.size() - rest.size();
    bool alone = false;  // whether the character is a piece
    for (size_t end = begin + 1; end <= std::min(part.size(), begin + longest_); ++end) {
      const auto piece = pieces_.find(part.substr(begin, end - begin));
      if (piece == pieces_.end()) continue;
      offer(begin, end, piece->second.id, best[begin].score + piece->second.score);
      alone |= end == next;
    }
    if (!alone) offer(begin, next, unknown_, best[begin].score + unknown_score_);
  }
  const size_t first = ids.size();
  for (size_t end = part.size(); end > 0; end = best[end].begin) {
    const bool goes_on = ids.size() > first && ids.back() == unknown_ && best[end].id == unknown_;
    if (!goes_on) ids.push_back(best[end].id);
  }
  std::reverse(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
}

}  // namespace eri
