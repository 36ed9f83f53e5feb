#pragma once

#include <string>
#include <vector>

#include "eri/train/family.h"

namespace eri {

// Pictures and captions as the model sees them, computed once and kept in the CPU's memory.
class CachedDataset {
 public:
  // Encodes every sample of the loader's dataset. `seed` fixes the sample drawn from each picture's posterior.
  CachedDataset(const ImageDataset& dataset, const Family& family, uint64_t seed);

  struct Batch {
    flame::Tensor latents;
    Conditioning condition;
  };
  Batch batch(const std::vector<size_t>& indices) const;  // on the model's device
  size_t size() const { return latents_.size(); }

 private:
  flame::Device device_;
  std::vector<flame::Tensor> latents_;    // one a sample, [C, h, w]
  std::vector<Conditioning> conditions_;  // one a sample, rows of one
};

}  // namespace eri
