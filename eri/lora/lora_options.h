#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "eri/lora/targets.h"

namespace eri {

// Which layers get a LoRA, how large it is, and how fast it learns.
struct LoraOptions {
  int64_t dim = 16;
  double alpha = 16;
  int64_t conv_dim = 0;  // of convolutions larger than 1x1; 0: they have none
  double conv_alpha = 1;
  uint64_t seed = 0;  // of the factors to begin with
  // In place of those for the UNet's blocks, one each as kohya numbers them (SDXL's are 23): the embeddings, the input
  // blocks, three of the middle, the output blocks, the last layers. A block of rank 0 gets no LoRA.
  std::vector<int64_t> block_dims = {};
  std::vector<double> block_alphas = {};
  std::vector<int64_t> conv_block_dims = {};
  std::vector<double> conv_block_alphas = {};
  // Factors of a step's learning rate, of each LoraPart and of the same blocks. Where they are 0 there is no LoRA.
  std::array<double, 3> part_lr = {1, 1, 1};
  std::vector<double> block_lr_weight = {};
  // None: attn_mlp, or full where convolutions have a rank.
  std::optional<LoraPreset> preset = std::nullopt;
  // Regular expressions for whole paths, or names in a file: layers that the preset chooses and that one of
  // exclude_patterns matches are left out, but those that one of include_patterns matches.
  std::vector<std::string> include_patterns = {};
  std::vector<std::string> exclude_patterns = {};
};

// What can be said without a model: throws where a number or an expression cannot be.
void require_valid(const LoraOptions& options);

struct LoraShare {
  int64_t rank;
  double alpha;
  double lr;  // factor of a step's learning rate
  bool operator==(const LoraShare&) const = default;
};
// By module. Throws where the options do not go with the model, and where they leave nothing.
using LoraPlan = std::map<std::string, LoraShare>;
LoraPlan plan_lora(const LoraSites& sites, const LoraOptions& options);

}  // namespace eri
