#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace eri {

// T5's tokenizer (Kudo's unigram model, arXiv:1804.10959) from the file that lies beside a T5 checkpoint.
class T5Tokenizer {
 public:
  static constexpr int32_t kPad = 0, kEnd = 1;

  // tokenizer.json, with the ids of the tokenizers library, or spiece.model, with those of SentencePiece; a folder with
  // either. Throws naming the file where it is something else. Characters newer than Unicode 15.0 are unknown to
  // ICU 72.
  static std::shared_ptr<const T5Tokenizer> load(const std::filesystem::path& path);
  virtual ~T5Tokenizer() = default;

  // All ids of a UTF-8 text, with the end behind them. What is written like a special token, such as <extra_id_0>, is
  // one. Throws flame::Error with the byte offset if the text is not UTF-8.
  std::vector<int32_t> encode(std::string_view text) const;

 protected:
  void add_special(std::string name, int32_t id);  // the name is not empty
  // Appends the ids of what stands between two special tokens; `first`: nothing stands before it.
  virtual void append(std::string_view text, bool first, std::vector<int32_t>& ids) const = 0;

 private:
  struct Special {
    std::string name;
    int32_t id;
  };
  const Special* special_at(std::string_view text) const;  // that `text` begins with, the longest; or null

  std::vector<Special> special_;  // the longest first
};

}  // namespace eri
