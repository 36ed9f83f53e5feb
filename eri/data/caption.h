#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace eri {

// The first byte that is not part of valid UTF-8; npos where there is none.
size_t invalid_utf8(std::string_view text);

// A caption file's first line that is not blank, without white space around it. Throws if the file is not UTF-8.
struct Caption {
  std::string text;
  bool more_lines = false;  // there are others, which are not used
};
Caption read_caption(const std::filesystem::path& file);

}  // namespace eri
