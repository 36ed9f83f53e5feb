#include "eri/data/clip_chunks.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "eri/data/prompt_weights.h"

namespace eri {
namespace {

using Ids = std::vector<int32_t>;

const ClipTokenizer& tokenizer() {
  static const ClipTokenizer tokenizer;
  return tokenizer;
}

// Prompts with what ComfyUI's and sd-scripts' rules make of them.
const nlohmann::json& prompts() {
  static const auto all = nlohmann::json::parse(std::ifstream(UNPACKED "/clip_prompts.json"));
  return all;
}

std::vector<Ids> ids_of(const std::vector<ClipChunk>& chunks) {
  std::vector<Ids> result;
  for (const ClipChunk& chunk : chunks) result.emplace_back(chunk.ids.begin(), chunk.ids.end());
  return result;
}

TEST(PromptWeights, AreReadAsComfyUiReadsThem) {
  ASSERT_GE(prompts().size(), 400u);
  for (const auto& entry : prompts()) {
    std::vector<WeightedText> expected;
    for (const auto& part : entry.at("parts")) expected.push_back({part.at(0), part.at(1)});
    EXPECT_EQ(parse_prompt_weights(entry.at("text").get<std::string>()), expected) << entry.at("text");
  }
}

TEST(PromptWeights, KnowParenthesesAndEscapesOnly) {
  using Parts = std::vector<WeightedText>;
  EXPECT_EQ(parse_prompt_weights("a (red:1.2) \\(cat\\)"), (Parts{{"a ", 1}, {"red", 1.2}, {" (cat)", 1}}));
  EXPECT_EQ(parse_prompt_weights("((a) b:0.5)"), (Parts{{"a", 0.5 * 1.1}, {" b", 0.5}}));
  EXPECT_EQ(parse_prompt_weights("[a] {b}"), (Parts{{"[a] {b}", 1}}));
  EXPECT_EQ(parse_prompt_weights("(a:nan)"), (Parts{{"a:nan", 1.1}}));
  EXPECT_EQ(parse_prompt_weights("(a:1e999)"), (Parts{{"a:1e999", 1.1}}));
  EXPECT_EQ(parse_prompt_weights(""), Parts{});
}

TEST(PromptChunks, ArePackedAsComfyUiPacksThem) {
  for (const auto& entry : prompts()) {
    const auto text = entry.at("text").get<std::string>();
    const auto chunks = prompt_chunks(tokenizer(), text, ClipTokenizer::kPadG);
    EXPECT_EQ(ids_of(chunks), entry.at("ids").get<std::vector<Ids>>()) << text;
    for (size_t i = 0; i < std::min(chunks.size(), entry.at("weights").size()); ++i) {
      const auto expected = entry.at("weights")[i].get<std::vector<float>>();
      EXPECT_EQ(std::vector(chunks[i].weights.begin(), chunks[i].weights.end()), expected) << text;
    }
  }
}

TEST(CaptionChunks, AreCutAsSdScriptsCutsThem) {
  for (const auto& entry : prompts()) {
    const auto text = entry.at("text").get<std::string>();
    for (const auto& [count, expected] : entry.at("captions").items()) {
      for (const auto& [index, pad] : {std::pair{0, ClipTokenizer::kPadL}, {1, ClipTokenizer::kPadG}})
        EXPECT_EQ(ids_of(caption_chunks(tokenizer().encode(text), std::stoi(count), pad)),
                  expected.at(index).get<std::vector<Ids>>())
            << text;
    }
  }
}

}  // namespace
}  // namespace eri
