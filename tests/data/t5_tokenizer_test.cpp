#include "eri/data/t5_tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "flame/core/error.h"

namespace eri {
namespace {

using Ids = std::vector<int32_t>;
const std::string kFolder = UNPACKED "/t5";

nlohmann::json read(const std::string& name) { return nlohmann::json::parse(std::ifstream(kFolder + "/" + name)); }

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const flame::Error& error) {
    return error.what();
  }
  return "no error";
}

// Some thousand texts; `key` says whose ids are expected.
void compare(const std::string& file, const char* key) {
  const auto tokenizer = T5Tokenizer::load(kFolder + "/" + file);
  const auto texts = read("texts.json");
  ASSERT_GE(texts.size(), 3000u);
  size_t different = 0;
  for (const auto& entry : texts) {
    const Ids ids = tokenizer->encode(entry.at("text").get<std::string>());
    if (ids != entry.at(key).get<Ids>() && ++different <= 5)
      ADD_FAILURE() << entry.at("text") << ": " << nlohmann::json(ids) << ", expected " << entry.at(key);
  }
  EXPECT_EQ(different, 0u);
}

TEST(T5Tokenizer, GivesTheIdsOfTheTokenizersLibrary) { compare("tokenizer.json", "t5"); }
TEST(T5Tokenizer, GivesTheIdsOfSentencePiece) { compare("spiece.model", "sp"); }

TEST(T5Tokenizer, TakesAFolderWithEither) {
  EXPECT_EQ(T5Tokenizer::load(kFolder)->encode("a cat"), (Ids{3, 9, 1712, 1}));
  EXPECT_EQ(error_of([] { T5Tokenizer::load(TESTS_DIR "/data/plain"); }),
            TESTS_DIR "/data/plain: there is no tokenizer: expected tokenizer.json or spiece.model");
}

TEST(T5Tokenizer, NamesTheByteThatIsNotUtf8) {
  for (const char* file : {"/tokenizer.json", "/spiece.model"}) {
    const auto tokenizer = T5Tokenizer::load(kFolder + file);
    EXPECT_EQ(error_of([&] { tokenizer->encode("</s>caf\xe9"); }), "tokenize: the text is not valid UTF-8 at byte 7");
  }
}

// What a changed file is refused with, without its name in front.
std::string refusal(const std::function<void(nlohmann::json&)>& change) {
  static const nlohmann::json whole = read("tokenizer.json");
  auto json = whole;
  change(json);
  const auto file = std::filesystem::temp_directory_path() / ("t5-" + std::to_string(getpid()) + ".json");
  std::ofstream(file) << json;
  const std::string error = error_of([&] { T5Tokenizer::load(file); });
  std::filesystem::remove(file);
  EXPECT_TRUE(error.starts_with(file.string() + ": ")) << error;
  return error.substr(std::min(error.size(), file.string().size() + 2));
}

TEST(T5Tokenizer, RefusesOtherTokenizers) {
  EXPECT_EQ(refusal([](auto& json) { json["model"]["type"] = "BPE"; }),
            "expected a unigram model without byte fallback, as T5's, got BPE");
  EXPECT_EQ(refusal([](auto& json) {
              json["normalizer"] = {{"type", "Lowercase"}};
            }),
            "normalizer: expected T5's (Precompiled, Strip, Replace of several spaces), got {\"type\":\"Lowercase\"}");
  EXPECT_EQ(refusal([](auto& json) {
              json["pre_tokenizer"] = {{"type", "Digits"}};
            }),
            "pre_tokenizer: expected T5's (Metaspace), got {\"type\":\"Digits\"}");
  EXPECT_EQ(refusal([](auto& json) { json["added_tokens"][0]["lstrip"] = true; }),
            "added_tokens: \"<pad>\" is lstrip, which T5's are not");
  EXPECT_EQ(refusal([](auto& json) { json["normalizer"]["normalizers"][0]["precompiled_charsmap"] = "ALQCAA=="; }),
            "precompiled_charsmap: the rules are cut off");
  EXPECT_TRUE(refusal([](auto& json) { json.erase("model"); }).starts_with("not a T5 tokenizer.json: "));
  EXPECT_TRUE(error_of([] {
                T5Tokenizer::load(TESTS_DIR "/data/ops.safetensors");
              }).starts_with(TESTS_DIR "/data/ops.safetensors: not a SentencePiece model (spiece.model): "));
}

TEST(T5Tokenizer, TakesOtherMetaspaces) {
  auto json = read("tokenizer.json");
  const auto ids = [&](const nlohmann::json& pre_tokenizer, const char* text) {
    const auto file = std::filesystem::temp_directory_path() / ("t5-" + std::to_string(getpid()) + ".json");
    json["pre_tokenizer"] = pre_tokenizer;
    std::ofstream(file) << json;
    const auto tokenizer = T5Tokenizer::load(file);
    std::filesystem::remove(file);
    return tokenizer->encode(text);
  };
  const nlohmann::json space = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}};
  const nlohmann::json words = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "WhitespaceSplit"}}, space}}};
  auto never = space;
  never["prepend_scheme"] = "never";
  // As the tokenizers library has them.
  EXPECT_EQ(ids(space, "cat</s>cat  a"), (Ids{1712, 1, 1712, 3, 9, 1}));
  EXPECT_EQ(ids(words, " cat\u2003</s>cat  a "), (Ids{1712, 1, 1712, 3, 9, 1}));
  EXPECT_EQ(ids(never, "cat cat"), (Ids{2138, 1712, 1}));
}

}  // namespace
}  // namespace eri
