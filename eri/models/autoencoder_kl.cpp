#include "eri/models/autoencoder_kl.h"

#include "eri/models/autoencoder_kl_blocks.h"
#include "eri/models/checkpoint.h"
#include "eri/models/fused_autoencoder.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {

using namespace flame;

AutoencoderKL::AutoencoderKL(const Scope& scope)
    : Module(scope),
      dtype_(scope.dtype()),
      device_(scope.device()),
      encoder_(std::make_shared<vae::Encoder>(scope / "encoder")),
      decoder_(std::make_shared<vae::Decoder>(scope / "decoder")),
      quant_conv_(scope / "quant_conv", {.in = encoder_->conv_out.out(), .kernel = 1}),
      post_quant_conv_(scope / "post_quant_conv", {.in = quant_conv_.out() / 2, .kernel = 1}) {}

AutoencoderKL AutoencoderKL::from_safetensors(const std::filesystem::path& path, Device device, DType dtype) {
  return AutoencoderKL(Scope(*Checkpoint(path).vae(), dtype, device));
}

bool AutoencoderKL::can_fuse() const { return cuda_build && device_.is_cuda() && dtype_ != DType::f32; }

void AutoencoderKL::fuse() {
  require(can_fuse(), "AutoencoderKL::fuse", "needs a GPU and weights of 16 bits, got ", dtype_, " on ", device_);
  if constexpr (cuda_build) fused_ = vae::fuse(encoder_, decoder_);
}

int64_t AutoencoderKL::size_multiple() const { return encoder_->size_multiple(); }
int64_t AutoencoderKL::latent_channels() const { return post_quant_conv_.in(); }

Tensor AutoencoderKL::moments(const Tensor& image) const {
  const int64_t multiple = size_multiple();
  require(image.rank() == 4 && image.dim(1) == 3 && image.dim(2) % multiple == 0 && image.dim(3) % multiple == 0,
          "VAE::encode", "expected pictures [N, 3, H, W] with H and W in multiples of ", multiple, ", got ",
          image.shape());
  const Tensor x = channels_last(image.to(dtype_));
  const Tensor h = quant_conv_(fused_ ? fused_->encode(x) : (*encoder_)(x));  // [N, H/8, W/8, 8]
  return channels_first(h).to(DType::f32);
}

Tensor AutoencoderKL::decode(const Tensor& latents) const {
  require(latents.rank() == 4 && latents.dim(1) == latent_channels(), "VAE::decode", "expected latents [N, ",
          latent_channels(), ", H, W], got ", latents.shape());
  const Tensor h = post_quant_conv_(channels_last((latents / scale).to(dtype_)));  // [N, H/8, W/8, 4]
  return channels_first(fused_ ? fused_->decode(h) : (*decoder_)(h)).to(DType::f32);
}

Posterior posterior_of(const Tensor& moments) {
  const int64_t channels = moments.dim(1) / 2;
  return {.mean = moments.narrow(1, 0, channels), .logvar = clamp(moments.narrow(1, channels, channels), -30, 20)};
}

Tensor sample(const Posterior& posterior, const Tensor& noise) {
  return (posterior.mean + exp(posterior.logvar * 0.5f) * noise) * AutoencoderKL::scale;
}

}  // namespace eri
