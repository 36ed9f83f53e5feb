#pragma once

#include "eri/data/t5_tokenizer.h"

namespace eri {

// A spiece.model, in the hands of the library that made it. T5's 100 <extra_id_N> stand behind its pieces, the last
// first.
class SentencePiece : public T5Tokenizer {
 public:
  // `bytes` is the whole file; `source` names it in errors.
  SentencePiece(const std::string& bytes, const std::string& source);
  ~SentencePiece() override;

 protected:
  void append(std::string_view text, bool first, std::vector<int32_t>& ids) const override;

 private:
  struct Model;
  std::unique_ptr<Model> model_;
};

}  // namespace eri
