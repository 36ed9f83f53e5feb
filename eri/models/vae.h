#pragma once

#include "eri/models/autoencoder_kl.h"

namespace eri {

// The dtype of the autoencoder in a run that computes in `dtype`: f32 on the CPU and with no_half_vae (kohya's name),
// and bf16 for f16, whose range SDXL's autoencoder leaves.
flame::DType vae_dtype(flame::DType dtype, flame::Device device, bool no_half_vae);

// SDXL's autoencoder. Pictures are [N, 3, H, W] in [-1, 1], H and W multiples of 8; latents are [N, 4, H/8, W/8] and
// scaled, as the UNet takes them. What comes out is f32. Where 16 bits give values that are not finite, the weights are
// read again in f32, for good, and a line says so. What does not fit into memory is done picture by picture, and then
// in tiles. One thread may use it at a time.
class VAE {
 public:
  static constexpr float scale = AutoencoderKL::scale;

  VAE(std::shared_ptr<const flame::WeightSource> weights, flame::DType dtype, flame::Device device);
  static VAE from_safetensors(const std::filesystem::path& path, flame::Device device = flame::Device::cpu(),
                              flame::DType dtype = flame::DType::f32);

  Posterior posterior(const Tensor& image) const;
  Tensor encode(const Tensor& image, const Tensor& noise) const;  // the posterior's sample for this unit noise
  Tensor encode(const Tensor& image) const;                       // the posterior's mean
  Tensor decode(const Tensor& latents) const;                     // not clamped

  const AutoencoderKL& network() const;
  flame::DType dtype() const;
  int64_t size_multiple() const { return network().size_multiple(); }
  int64_t latent_channels() const { return network().latent_channels(); }

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace eri
