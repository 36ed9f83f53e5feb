#pragma once

#include <span>
#include <string>
#include <string_view>

namespace flame {

// The candidate with the fewest insertions, deletions and replacements away from `wanted` (Levenshtein distance), for
// "did you mean"; empty where all are more than a third of the letters of `wanted` away.
std::string closest(std::string_view wanted, std::span<const std::string> candidates);

// The end of a sentence that says that there is no `wanted`: "; the closest is NAME", or where none is close how many
// there are, and one of them.
std::string closest_or_any(std::string_view wanted, std::span<const std::string> candidates);

}  // namespace flame
