#pragma once

#include <sstream>

#include "flame/io/image.h"
#include "tests/io/files.h"

namespace flame::testing {

// The committed pictures with their pixels beside them, from tests/reference/images.py.
inline std::filesystem::path picture(const std::string& name) {
  return std::filesystem::path(TESTS_DIR) / "io/pictures" / name;
}

inline Image read_ppm(const std::filesystem::path& path) {
  std::istringstream in(read_file(path));
  std::string magic;
  int width = 0, height = 0, most = 0;
  in >> magic >> width >> height >> most;
  in.get();
  return Image(width, height, {std::istreambuf_iterator<char>(in), {}});
}

}  // namespace flame::testing
