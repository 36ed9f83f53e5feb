#include "flame/core/closest.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "flame/core/error.h"

namespace flame {
namespace {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);  // from the part of a seen so far to each beginning of b
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string closest(std::string_view wanted, std::span<const std::string> candidates) {
  std::string best;
  size_t too_far = (wanted.size() + 2) / 3 + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(wanted, candidate);
    if (distance < too_far) too_far = distance, best = candidate;
  }
  return best;
}

std::string closest_or_any(std::string_view wanted, std::span<const std::string> candidates) {
  if (const std::string match = closest(wanted, candidates); !match.empty()) return "; the closest is " + match;
  if (candidates.empty()) return ", nor any other";
  return text(", nor one like it; there are ", candidates.size(), ", such as ", candidates.front());
}

}  // namespace flame
