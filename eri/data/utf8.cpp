#include "eri/data/utf8.h"

#include <unicode/utf8.h>

#include <fstream>
#include <limits>

#include "flame/core/error.h"

namespace eri {

namespace {

// The first byte that is not part of valid UTF-8, or where the text ends.
int32_t valid_bytes(std::string_view text) {
  const auto size = static_cast<int32_t>(text.size());
  for (int32_t at = 0; at < size;) {
    const int32_t start = at;
    UChar32 c;
    U8_NEXT(text.data(), at, size, c);
    if (c < 0) return start;
  }
  return size;
}

constexpr size_t kMost = std::numeric_limits<int32_t>::max() / 4;  // ICU counts in int32, and NFC may grow a text

}  // namespace

void require_utf8(std::string_view text) {
  if (text.size() > kMost) flame::fail("tokenize: a text of ", text.size(), " bytes is longer than ", kMost);
  const int32_t valid = valid_bytes(text);
  if (valid < std::ssize(text)) flame::fail("tokenize: the text is not valid UTF-8 at byte ", valid);
}

std::string read_utf8(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file || text.size() > kMost) flame::fail(path.string(), ": cannot be read; expected a text file");
  const int32_t valid = valid_bytes(text);
  if (valid < std::ssize(text)) flame::fail(path.string(), ": not UTF-8 at byte ", valid, ": save it as UTF-8 text");
  constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
  return text.starts_with(byte_order_mark) ? text.substr(byte_order_mark.size()) : text;
}

UChar32 take_code_point(std::string_view& text) {
  UChar32 c;
  int32_t size = 0;
  U8_NEXT(text.data(), size, static_cast<int32_t>(text.size()), c);
  text.remove_prefix(size);
  return c;
}

void append_code_point(UChar32 c, std::string& text) {
  char bytes[U8_MAX_LENGTH];
  int32_t size = 0;
  U8_APPEND_UNSAFE(bytes, size, c);
  text.append(bytes, size);
}

}  // namespace eri
