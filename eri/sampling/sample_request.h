#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "eri/diffusion/sampling.h"

namespace eri {

struct SampleOptions {
  std::string negative_prompt = {};
  uint64_t seed = 0;
  double cfg = 7;  // 1 means no guidance
  int64_t width = 1024, height = 1024;
  std::string sampler = "euler", scheduler = "normal";  // ComfyUI's names
  double cfg_rescale = 0;
  friend bool operator==(const SampleOptions&, const SampleOptions&) = default;
};

// One picture to draw.
struct SampleRequest {
  std::string prompt = {};
  int steps = 20;
  SampleOptions options = {};

  // What the model is told: the prompt, and where there is guidance the negative prompt.
  std::vector<std::string> texts() const;
  Sampling sampling() const;
  friend bool operator==(const SampleRequest&, const SampleRequest&) = default;
};

// ComfyUI's name of a sampler that is called so by ComfyUI or by sd-scripts (euler_a, k_euler, dpmsolver++, ...).
// Throws for another name, listing the known ones; scheduler_named() only knows ComfyUI's.
std::string sampler_named(std::string_view name);
std::string scheduler_named(std::string_view name);

// A line of sd-scripts' prompt files: a prompt and behind it, where they differ from `request`, --n negative prompt,
// --w width, --h height, --d seed, --l guidance (cfg), --s steps and --ss sampler. Throws for anything else.
SampleRequest parse_prompt(std::string_view line, SampleRequest request);

// A file of such lines; empty ones and those that begin with # are left out. A prompt without a seed of its own has
// that of `request` plus `pictures` for each prompt before it. Throws naming the file and the line.
std::vector<SampleRequest> read_prompts(const std::filesystem::path& file, const SampleRequest& request,
                                        uint64_t pictures = 1);

// Throws naming the sides if one is no multiple of `multiple`.
void require_size(const SampleOptions& options, int64_t multiple);

}  // namespace eri
