#pragma once

#include <string>

namespace eri {

const char* commit();   // that was built, as `git describe` calls it; "unknown" where git could not tell
std::string version();  // "eri 0.1.0, commit 837c5d3, without CUDA"

}  // namespace eri
