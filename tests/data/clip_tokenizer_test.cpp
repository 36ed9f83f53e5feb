#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "eri/data/clip_chunks.h"
#include "flame/core/error.h"

namespace eri {
namespace {

using Ids = std::vector<int32_t>;

const ClipTokenizer& tokenizer() {
  static const ClipTokenizer tokenizer;
  return tokenizer;
}

nlohmann::json read(const std::string& path) { return nlohmann::json::parse(std::ifstream(path)); }

Ids framed(const Ids& ids, int32_t pad) {
  const auto chunk = caption_chunks(ids, 1, pad).front().ids;
  return {chunk.begin(), chunk.end()};
}

std::string error_of(std::string_view text) {
  try {
    tokenizer().encode(text);
  } catch (const flame::Error& error) {
    return error.what();
  }
  return "none";
}

TEST(ClipTokenizer, GivesTheIdsOfTheParityCase) {
  const auto cases = read(TESTS_DIR "/parity/cases/tokenize/texts.json");
  ASSERT_FALSE(cases.empty());
  for (const auto& expected : cases) {
    const Ids ids = tokenizer().encode(expected["text"].get<std::string>());
    EXPECT_EQ(ids, expected["ids"].get<Ids>()) << expected["text"];
    EXPECT_EQ(framed(ids, ClipTokenizer::kPadL), expected["clip_l"].get<Ids>()) << expected["text"];
    EXPECT_EQ(framed(ids, ClipTokenizer::kPadG), expected["clip_g"].get<Ids>()) << expected["text"];
  }
}

TEST(ClipTokenizer, GivesTheIdsOfTransformersForThousandsOfTexts) {
  const auto cases = read(UNPACKED "/clip_tokenizer_texts.json");
  ASSERT_GE(cases.size(), 3000u);
  for (const auto& expected : cases) {
    EXPECT_EQ(tokenizer().encode(expected["text"].get<std::string>()), expected["ids"].get<Ids>()) << expected["text"];
  }
}

TEST(ClipTokenizer, KnowsTheSpecialTokensInAText) {
  EXPECT_EQ(tokenizer().encode("a <|endoftext|> b<|startoftext|>"), (Ids{320, 49407, 321, 49406}));
  EXPECT_EQ(tokenizer().encode("<|startoftext|><|endoftext|>"), (Ids{49406, 49407}));
}

TEST(ClipTokenizer, GivesNothingForNothing) {
  EXPECT_EQ(tokenizer().encode(""), Ids{});
  EXPECT_EQ(tokenizer().encode(" \t\r\n\u3000"), Ids{});
  Ids nothing(77);
  nothing[0] = 49406, nothing[1] = 49407;
  EXPECT_EQ(framed({}, ClipTokenizer::kPadG), nothing);
}

TEST(ClipTokenizer, NamesTheByteThatIsNotUtf8) {
  using namespace std::string_view_literals;
  const struct {
    std::string_view text;
    int offset;
  } cases[] = {
      {"\xff"sv, 0},                              // never in UTF-8
      {"a cat \x80"sv, 6},                        // a continuation of nothing
      {"caf\xe9 au lait"sv, 3},                   // Latin-1
      {"\xc3\xa9\xc3"sv, 2},                      // cut off
      {"ab\xf0\x9f\x90"sv, 2},                    // cut off
      {"a\0b\xc0\x80"sv, 3},                      // overlong
      {"\xed\xa0\x80"sv, 0},                      // a surrogate
      {"\xf4\x8f\xbf\xbf\xf4\x90\x80\x80"sv, 4},  // above U+10FFFF
      {"<|endoftext|>\xfe"sv, 13},
  };
  for (const auto& [text, offset] : cases) {
    EXPECT_EQ(error_of(text), "tokenize: the text is not valid UTF-8 at byte " + std::to_string(offset));
  }
  EXPECT_EQ(error_of("caf\xc3\xa9 \xf4\x8f\xbf\xbf"), "none");
}

TEST(ClipTokenizer, StandsALongWord) { EXPECT_EQ(tokenizer().encode(std::string(100000, 'a')).size(), 12501u); }

}  // namespace
}  // namespace eri
