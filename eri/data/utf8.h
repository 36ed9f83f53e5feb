#pragma once

#include <unicode/umachine.h>

#include <string>
#include <string_view>

// What the tokenizers share.
namespace eri {

// Throws "tokenize: ..." naming the first byte that is not part of valid UTF-8, or if the text is too long for ICU.
void require_utf8(std::string_view text);

// Takes one code point off the front of valid UTF-8.
UChar32 take_code_point(std::string_view& text);
void append_code_point(UChar32 c, std::string& text);

}  // namespace eri
