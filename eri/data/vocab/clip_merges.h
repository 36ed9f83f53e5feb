#pragma once

#include <string>

namespace eri {

// The 48894 merges of CLIP's vocabulary, best first, a line each: "left right". See NOTICE.
std::string clip_merges();

}  // namespace eri
