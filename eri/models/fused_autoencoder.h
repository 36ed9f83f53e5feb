#pragma once

#include <memory>

#include "eri/models/autoencoder_kl_blocks.h"

namespace eri::vae {

// The encoder and the decoder on a GPU in f16 or bf16, as few passes over memory: residual sums are made by the norms
// that read them, biases too; a convolution of an enlarged picture is four of the small one. No gradients.
class Fused {
 public:
  virtual ~Fused() = default;
  virtual Tensor encode(const Tensor& image) const = 0;    // as Encoder
  virtual Tensor decode(const Tensor& latents) const = 0;  // as Decoder
};

std::unique_ptr<Fused> fuse(std::shared_ptr<const Encoder> encoder, std::shared_ptr<const Decoder> decoder);

}  // namespace eri::vae
