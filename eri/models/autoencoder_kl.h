#pragma once

#include <filesystem>
#include <memory>

#include "flame/nn/layers.h"

namespace eri {

using flame::Tensor;

// SDXL's autoencoder. Pictures are [N, 3, H, W] in [-1, 1], H and W multiples of 8; latents are [N, 4, H/8, W/8] and
// scaled, as the UNet takes them. Its layers have the names of a single-file checkpoint below `first_stage_model`.
class VAE : public flame::Module {
 public:
  static constexpr float scale = 0.13025f;

  struct Posterior {
    Tensor mean, logvar;  // [N, 4, H/8, W/8], not scaled; f32
  };

  explicit VAE(const flame::Scope& scope);
  static VAE from_safetensors(const std::filesystem::path& path, flame::Device device = flame::Device::cpu(),
                              flame::DType dtype = flame::DType::f32);

  Posterior posterior(const Tensor& image) const;
  Tensor encode(const Tensor& image, const Tensor& noise) const;  // the posterior's sample for this unit noise
  Tensor encode(const Tensor& image) const;                       // the posterior's mean
  Tensor decode(const Tensor& latents) const;                     // not clamped; f32

  int64_t size_multiple() const;    // 8: how much smaller latents are
  int64_t latent_channels() const;  // 4

 private:
  struct Encoder;
  struct Decoder;
  flame::DType dtype_;
  std::shared_ptr<const Encoder> encoder_;
  std::shared_ptr<const Decoder> decoder_;
  flame::Conv2d quant_conv_, post_quant_conv_;
};

Tensor sample(const VAE::Posterior& posterior, const Tensor& noise);  // (mean + exp(logvar / 2) noise) scale

}  // namespace eri
