#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace eri {

// A part of a prompt, and how strongly it is meant.
struct WeightedText {
  std::string text;
  double weight = 1;
  friend bool operator==(const WeightedText&, const WeightedText&) = default;
};

// A prompt's parts as ComfyUI reads them: (word) is 1.1 times what stands around it, (word:1.2) is 1.2 whatever stands
// around it, \( and \) are parentheses. Brackets mean nothing. A weight that is no finite number is part of the text.
std::vector<WeightedText> parse_prompt_weights(std::string_view prompt);

}  // namespace eri
