#include "eri/data/utf8.h"

#include <unicode/utf8.h>

#include <limits>

#include "flame/core/error.h"

namespace eri {

void require_utf8(std::string_view text) {
  constexpr size_t kMost = std::numeric_limits<int32_t>::max() / 4;  // ICU counts in int32, and NFC may grow a text
  if (text.size() > kMost) flame::fail("tokenize: a text of ", text.size(), " bytes is longer than ", kMost);
  for (int32_t at = 0, size = static_cast<int32_t>(text.size()); at < size;) {
    const int32_t start = at;
    UChar32 c;
    U8_NEXT(text.data(), at, size, c);
    if (c < 0) flame::fail("tokenize: the text is not valid UTF-8 at byte ", start);
  }
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
