#pragma once

#include <unicode/umachine.h>

#include <filesystem>
#include <string>
#include <string_view>

// What tokenizers and readers of texts share.
namespace eri {

// Throws "tokenize: ..." naming the first byte that is not part of valid UTF-8, or if the text is too long for ICU.
void require_utf8(std::string_view text);

// A text file, without a byte order mark. Throws naming the file and the first byte that is not UTF-8.
std::string read_utf8(const std::filesystem::path& file);

// Takes one code point off the front of valid UTF-8.
UChar32 take_code_point(std::string_view& text);
void append_code_point(UChar32 c, std::string& text);

}  // namespace eri
