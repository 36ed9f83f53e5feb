#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace eri {

struct SampleOptions {
  std::string negative_prompt = {};
  uint64_t seed = 0;
  double cfg = 7;  // 1 means no guidance
  int64_t width = 1024, height = 1024;
};

// One picture to draw.
struct SampleRequest {
  std::string prompt = {};
  int steps = 20;
  SampleOptions options = {};

  // What the model is told: the prompt, and where there is guidance the negative prompt.
  std::vector<std::string> texts() const;
};

// A line of sd-scripts' prompt files: a prompt and behind it, where they differ from `request`, --n negative prompt,
// --w width, --h height, --d seed, --l guidance (cfg) and --s steps. Throws for anything else.
SampleRequest parse_prompt(std::string_view line, SampleRequest request);

// A file of such lines; empty ones and those that begin with # are left out. A prompt without a seed of its own has
// that of `request` plus the number of prompts before it. Throws naming the file and the line.
std::vector<SampleRequest> read_prompts(const std::filesystem::path& file, const SampleRequest& request);

// Throws naming the sides if one is no multiple of `multiple`.
void require_size(const SampleOptions& options, int64_t multiple);

}  // namespace eri
