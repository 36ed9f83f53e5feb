#pragma once

#include <filesystem>
#include <memory>

#include "flame/nn/layers.h"

namespace eri {

using flame::Tensor;

namespace vae {
struct Encoder;
struct Decoder;
class Fused;
}  // namespace vae

// The normal distribution that a picture is encoded to.
struct Posterior {
  Tensor mean, logvar;  // [N, 4, H/8, W/8], not scaled; f32
};

// The network of SDXL's autoencoder in one dtype; eri/models/vae.h is what programs use. Pictures are [N, 3, H, W] in
// [-1, 1], H and W multiples of 8. Its layers have the names of a single-file checkpoint below `first_stage_model`.
class AutoencoderKL : public flame::Module {
 public:
  static constexpr float scale = 0.13025f;  // of latents, as the UNet takes them

  explicit AutoencoderKL(const flame::Scope& scope);
  static AutoencoderKL from_safetensors(const std::filesystem::path& path, flame::Device device = flame::Device::cpu(),
                                        flame::DType dtype = flame::DType::f32);

  Tensor moments(const Tensor& image) const;   // mean and logvar side by side: [N, 8, H/8, W/8], f32
  Tensor decode(const Tensor& latents) const;  // scaled [N, 4, H/8, W/8] -> [N, 3, H, W], not clamped; f32

  // From now on as fewer passes over memory, for speed on a GPU in f16 or bf16.
  void fuse();
  bool can_fuse() const;

  int64_t size_multiple() const;    // 8: how much smaller latents are
  int64_t latent_channels() const;  // 4

 private:
  flame::DType dtype_;
  flame::Device device_;
  std::shared_ptr<const vae::Encoder> encoder_;
  std::shared_ptr<const vae::Decoder> decoder_;
  std::shared_ptr<const vae::Fused> fused_;  // none until fuse()
  flame::Conv2d quant_conv_, post_quant_conv_;
};

Posterior posterior_of(const Tensor& moments);
Tensor sample(const Posterior& posterior, const Tensor& noise);  // (mean + exp(logvar / 2) noise) scale

}  // namespace eri
