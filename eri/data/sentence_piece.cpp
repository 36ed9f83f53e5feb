#include "eri/data/sentence_piece.h"

#include <sentencepiece_processor.h>

#include "flame/core/error.h"

namespace eri {

struct SentencePiece::Model {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePiece::SentencePiece(const std::string& bytes, const std::string& source) : model_(std::make_unique<Model>()) {
  auto& processor = model_->processor;
  const auto status = processor.LoadFromSerializedProto(bytes);
  if (!status.ok()) flame::fail(source, ": not a SentencePiece model (spiece.model): ", status.error_message());
  if (processor.pad_id() != kPad || processor.eos_id() != kEnd)
    flame::fail(source, ": not T5's tokenizer: expected ", kPad, " for padding and ", kEnd, " for the end, got ",
                processor.pad_id(), " and ", processor.eos_id());
  constexpr int extra_ids = 100;
  const int pieces = processor.GetPieceSize();
  for (const int id : {processor.pad_id(), processor.eos_id(), processor.unk_id()})
    add_special(processor.IdToPiece(id), id);
  for (int i = 0; i < extra_ids; ++i) add_special(flame::text("<extra_id_", i, ">"), pieces + extra_ids - 1 - i);
}

SentencePiece::~SentencePiece() = default;

void SentencePiece::append(std::string_view text, bool, std::vector<int32_t>& ids) const {
  std::vector<int> pieces;
  const auto status = model_->processor.Encode({text.data(), text.size()}, &pieces);
  if (!status.ok()) flame::fail("tokenize: SentencePiece cannot split the text: ", status.error_message());
  ids.insert(ids.end(), pieces.begin(), pieces.end());
}

}  // namespace eri
