#pragma once

#include <span>
#include <string>
#include <string_view>

namespace flame {

// The candidate with the fewest insertions, deletions and replacements away from `wanted` (Levenshtein distance), for
// "did you mean"; empty if there are no candidates.
std::string closest(std::string_view wanted, std::span<const std::string> candidates);

}  // namespace flame
