#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "eri/models/weight_files.h"

namespace eri {

// What a LoRA file has, whichever naming scheme it follows.
struct LoraInventory {
  struct Block {
    int64_t modules = 0;
    double effect = 0;  // |alpha / rank up(down)| of all its modules as one vector
  };

  struct ByNumber {  // blocks.9 before blocks.10
    bool operator()(const std::string& a, const std::string& b) const { return ::strverscmp(a.c_str(), b.c_str()) < 0; }
  };

  std::string naming;                             // "kohya, with a single file's block numbers"
  std::map<int64_t, int64_t> ranks;               // how many modules have which
  std::map<double, int64_t> alphas;               // the rank where a module has none, as programs take it
  int64_t without_alpha = 0;                      // modules
  std::map<std::string, Block, ByNumber> blocks;  // "input_blocks.4", "text encoder CLIP-L"
  std::vector<std::string> others;                // tensors that are no part of a module with `down` and `up`

  int64_t modules() const;
  double effect() const;
};

LoraInventory lora_inventory_of(const WeightFiles& file);

}  // namespace eri
