#pragma once

#include "case.h"

namespace eri::parity {

struct Results {
  std::vector<Tensors> actual;  // of each draw
  Tensors expected;
};

// Each computes what a case of its kind expects. Throws what the code under test throws.
Tensors text(const Case& c);
Tensors t5(const Case& c);
Tensors prompts(const Case& c);
Tensors captions(const Case& c);
Tensors text_lora(const Case& c);
Tensors vae_encode(const Case& c);
Tensors vae_decode(const Case& c);
Tensors unet(const Case& c);
std::vector<Tensors> unet_lora(const Case& c);  // of each draw
Tensors unet_loss(const Case& c);
Tensors text_training(const Case& c);
Tensors schedule(const Case& c);
Tensors train(const Case& c);
Tensors optimizer(const Case& c);
Tensors sampler(const Case& c);
Tensors drawing(const Case& c);

Results tokenize(const Case& c);  // what is expected depends on which of several right answers is given

}  // namespace eri::parity
