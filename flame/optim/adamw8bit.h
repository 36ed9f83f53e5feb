#pragma once

#include "flame/optim/adamw.h"

namespace flame {

// AdamW whose averages take a byte each (Dettmers et al., arXiv:2110.02861), as bitsandbytes' AdamW8bit computes it:
// blocks of 256 values share a scale, parameters of fewer than 4096 values stay in f32.
class AdamW8bit : public Optimizer {
 public:
  using Options = AdamWOptions;

  AdamW8bit(ParameterPack pack, const Options& options);

 private:
  // Where a parameter's blocks begin, or its averages in f32.
  struct Place {
    int64_t block, blocks, wide;  // wide: -1 if it has 8 bits
  };
  void update(const Tensor& state) override;
  std::map<std::string, Tensor> state() const override;

  Options options_;
  std::vector<Place> places_;          // one a parameter
  std::vector<int64_t> group_blocks_;  // where each group's blocks end
  Tensor blocks_, maps_, codes1_, codes2_, largest1_, largest2_, wide1_, wide2_;
};

}  // namespace flame
