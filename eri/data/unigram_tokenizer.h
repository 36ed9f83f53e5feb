#pragma once

#include <nlohmann/json_fwd.hpp>
#include <unordered_map>

#include "eri/data/precompiled_charsmap.h"
#include "eri/data/t5_tokenizer.h"

namespace eri {

// A tokenizer.json of the tokenizers library (https://github.com/huggingface/tokenizers) with the parts that T5's have:
// a character map, stripped and collapsed spaces, Metaspace, a unigram model. Throws naming a part that it does not
// know.
class UnigramTokenizer : public T5Tokenizer {
 public:
  // `json` is the whole file; `source` names it in errors.
  UnigramTokenizer(const std::string& json, const std::string& source);

 protected:
  void append(std::string_view text, bool first, std::vector<int32_t>& ids) const override;

 private:
  struct Normalizer {
    enum class Kind { characters, strip, collapse } kind;  // collapse: runs of spaces to one mark
    PrecompiledCharsmap map = {};
    bool left = false, right = false;  // where to strip
  };
  enum class Prepend { always, first, never };  // where a mark is put in front of a word that has none

  void read_normalizer(const nlohmann::json& json);
  void read_pre_tokenizer(const nlohmann::json& json);
  void read_model(const nlohmann::json& json);
  void add_word(std::string word, bool first, std::vector<int32_t>& ids) const;
  void add_pieces(std::string_view part, std::vector<int32_t>& ids) const;

  struct Piece {
    int32_t id;
    double score;
  };
  // Pieces by their text; views point into `texts_`.
  std::unordered_map<std::string_view, Piece> pieces_;
  std::vector<std::string> texts_;
  size_t longest_ = 0;
  int32_t unknown_ = 0;
  double unknown_score_ = 0;
  std::vector<Normalizer> normalizers_;
  bool at_white_space_ = false;  // whether words are what stands between white space
  Prepend prepend_ = Prepend::always;
};

}  // namespace eri
