#pragma once

#include <functional>
#include <string>
#include <vector>

#include "eri/train/family.h"

namespace eri {

// Pictures and captions as the model sees them, computed once and kept in the CPU's memory.
class CachedDataset {
 public:
  // Called now and then with how many of the pictures are done.
  using Progress = std::function<void(size_t done)>;

  // Encodes every sample of the dataset. `seed` fixes the sample drawn from each picture's posterior. Pictures are
  // decoded ahead by other threads; the first broken one, in the order of the dataset, throws naming it.
  CachedDataset(const ImageDataset& dataset, const Family& family, uint64_t seed, const Progress& progress = {});

  struct Batch {
    flame::Tensor latents;
    Conditioning condition;
  };
  // On the model's device, in the order of its work: does not wait for it.
  Batch batch(const std::vector<size_t>& indices) const;
  size_t size() const { return latents_.size(); }

 private:
  void encode_captions(const ImageDataset& dataset, const Family& family);
  void encode_pictures(const ImageDataset& dataset, const Family& family, uint64_t seed, const Progress& progress);

  flame::Device device_;
  std::vector<flame::Tensor> latents_;    // one a sample, [1, C, h, w]
  std::vector<Conditioning> conditions_;  // one a sample, rows of one; samples of one caption share theirs
};

}  // namespace eri
