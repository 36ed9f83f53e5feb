#include <fstream>

#include "eri/data/clip_chunks.h"
#include "eri/data/t5_tokenizer.h"
#include "flame/core/error.h"
#include "kinds.h"

namespace eri::parity {
namespace {

using Ids = std::vector<int32_t>;

Tensor tensor(const Ids& ids) { return Tensor::from(ids, {static_cast<int64_t>(ids.size())}); }

Tensor framed(const Ids& ids, int32_t pad) {
  const auto chunk = caption_chunks(ids, 1, pad).front().ids;
  return tensor(Ids(chunk.begin(), chunk.end()));
}

}  // namespace

Results tokenize(const Case& c) {
  std::ifstream file(c.folder / "texts.json");
  if (!file) flame::fail("there is no texts.json");
  const ClipTokenizer tokenizer;
  std::shared_ptr<const T5Tokenizer> t5;
  Tensors actual, expected;
  size_t index = 0;
  for (const auto& entry : nlohmann::json::parse(file)) {
    const std::string name = flame::text("texts.", index++, ".");
    const auto text = entry.at("text").get<std::string>();
    const Ids ids = tokenizer.encode(text);
    actual[name + "ids"] = tensor(ids);
    actual[name + "clip_l"] = framed(ids, ClipTokenizer::kPadL);
    actual[name + "clip_g"] = framed(ids, ClipTokenizer::kPadG);
    expected[name + "ids"] = tensor(entry.at("ids").get<Ids>());
    expected[name + "clip_l"] = tensor(entry.at("clip_l").get<Ids>());
    expected[name + "clip_g"] = tensor(entry.at("clip_g").get<Ids>());
    for (const auto& other : entry.value("also_accepted", nlohmann::json::array())) {
      if (other.get<Ids>() == ids)
        for (const char* what : {"ids", "clip_l", "clip_g"}) expected[name + what] = actual[name + what];
    }
    if (!entry.contains("t5")) continue;
    if (!t5) t5 = T5Tokenizer::load(T5_TOKENIZER);
    actual[name + "t5"] = tensor(t5->encode(text));
    expected[name + "t5"] = tensor(entry.at("t5").get<Ids>());
  }
  return {{actual}, expected};
}

}  // namespace eri::parity
