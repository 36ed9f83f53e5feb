#pragma once

#include <string>

namespace eri {

// How latents are sampled, under ComfyUI's names.
struct Sampling {
  std::string sampler = "euler", scheduler = "normal";
  int steps = 20;
  double cfg = 7;          // guidance; 1 is none
  double cfg_rescale = 0;  // how far guided predictions of v are brought back to the size of unguided ones
};

}  // namespace eri
