#include "eri/data/caption.h"

#include "flame/core/error.h"
#include "flame/io/mapped_file.h"

namespace eri {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blank = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(blank);
  return begin == text.npos ? std::string_view() : text.substr(begin, text.find_last_not_of(blank) + 1 - begin);
}

// The length of the character that `text` begins with; 0 if it is not valid: cut off, overlong, a surrogate, too high.
size_t character_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                        : (lead & 0xF0) == 0xE0        ? 3
                        : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                       : 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool wrong = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) > 0x9F) ||
                     (lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) > 0x8F);
  return wrong ? 0 : length;
}

}  // namespace

size_t invalid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = character_length(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return text.npos;
}

Caption read_caption(const std::filesystem::path& path) {
  const flame::MappedFile file(path);
  const size_t invalid = invalid_utf8(file.view());
  if (invalid != std::string_view::npos) {
    flame::fail("not UTF-8 at byte ", invalid, ": save it as UTF-8 text");
  }
  constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
  std::string_view text = file.view();
  if (text.starts_with(byte_order_mark)) text.remove_prefix(byte_order_mark.size());
  text = trimmed(text);
  const size_t line_end = text.find_first_of("\r\n");
  return {std::string(trimmed(text.substr(0, line_end))), line_end != text.npos};
}

}  // namespace eri
