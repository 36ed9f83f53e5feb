#include "eri/data/t5_tokenizer.h"

#include <algorithm>
#include <fstream>

#include "eri/data/sentence_piece.h"
#include "eri/data/unigram_tokenizer.h"
#include "eri/data/utf8.h"
#include "flame/core/error.h"

namespace eri {

namespace fs = std::filesystem;

namespace {

fs::path find_in(const fs::path& folder) {
  for (const char* name : {"tokenizer.json", "spiece.model"}) {
    if (fs::exists(folder / name)) return folder / name;
  }
  flame::fail(folder.string(), ": there is no tokenizer: expected tokenizer.json or spiece.model");
}

}  // namespace

std::shared_ptr<const T5Tokenizer> T5Tokenizer::load(const fs::path& path) {
  const fs::path file = fs::is_directory(path) ? find_in(path) : path;
  std::ifstream in(file, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(in), {});
  if (!in) flame::fail(file.string(), ": cannot be read; expected T5's tokenizer.json or spiece.model");
  if (bytes.starts_with('{')) return std::make_shared<UnigramTokenizer>(bytes, file.string());
  return std::make_shared<SentencePiece>(bytes, file.string());
}

void T5Tokenizer::add_special(std::string name, int32_t id) {
  const auto shorter = [&](const Special& other) { return other.name.size() < name.size(); };
  const auto place = std::find_if(special_.begin(), special_.end(), shorter);
  special_.insert(place, {std::move(name), id});
}

const T5Tokenizer::Special* T5Tokenizer::special_at(std::string_view text) const {
  const auto found = std::find_if(special_.begin(), special_.end(),
                                  [&](const Special& special) { return text.starts_with(special.name); });
  return found == special_.end() ? nullptr : &*found;
}

std::vector<int32_t> T5Tokenizer::encode(std::string_view text) const {
  require_utf8(text);
  std::vector<int32_t> ids;
  size_t begun = 0;  // of the plain text that has not been done
  for (size_t at = 0; at < text.size();) {
    const Special* special = special_at(text.substr(at));
    if (!special) {
      ++at;
      continue;
    }
    append(text.substr(begun, at - begun), begun == 0, ids);
    ids.push_back(special->id);
    begun = at += special->name.size();
  }
  append(text.substr(begun), begun == 0, ids);
  ids.push_back(kEnd);
  return ids;
}

}  // namespace eri
