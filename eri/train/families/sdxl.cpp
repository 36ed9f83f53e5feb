#include <optional>

#include "eri/diffusion/noise_schedule.h"
#include "eri/lora/sdxl_lora.h"
#include "eri/models/autoencoder_kl.h"
#include "eri/models/checkpoint.h"
#include "eri/models/text_conditioning.h"
#include "eri/models/unet.h"
#include "eri/sampling/drawing.h"
#include "eri/train/family.h"
#include "flame/ops/loss.h"

namespace eri {
namespace {

using flame::Shape;

class Sdxl : public Family {
 public:
  Sdxl(const Checkpoint& checkpoint, flame::Device device, flame::DType dtype)
      : path_(checkpoint.path()),
        device_(device),
        prediction_(checkpoint.v_prediction() ? Prediction::v : Prediction::epsilon),
        schedule_(checkpoint.zero_terminal_snr(), device),
        denoiser_(schedule_, prediction_),
        unet_(UNet::from_safetensors(checkpoint.path(), device, dtype)),
        vae_(load_vae()),
        text_(TextEncoders::from_safetensors(checkpoint.path(), device, dtype)) {}

  Conditioning encode_text(const std::vector<std::string>& captions,
                           const std::vector<SizeConditioning>& sizes) const override {
    const TextConditioning text = text_->encode(captions);
    std::vector<float> ids;
    for (const SizeConditioning& size : sizes) {
      for (int64_t id : {size.original_height, size.original_width, size.crop_top, size.crop_left, size.target_height,
                         size.target_width})
        ids.push_back(static_cast<float>(id));
    }
    return {text.context, text.pooled,
            Tensor::from(ids, {static_cast<int64_t>(sizes.size()), 6}, text.context.device())};
  }

  Tensor encode_pictures(const Tensor& pixels, const Tensor& noise) const override {
    return vae_->encode(pixels.to(device_), noise.to(device_));
  }

  Shape latent_shape(int64_t batch, int64_t height, int64_t width) const override {
    const int64_t multiple = vae_->size_multiple();
    return {batch, vae_->latent_channels(), height / multiple, width / multiple};
  }

  int64_t size_multiple() const override { return vae_->size_multiple() * unet_.size_multiple(); }

  void release_encoders() override {
    vae_.reset();
    text_.reset();
  }

  flame::Device device() const override { return device_; }

  // Weights that are loaded for the call lie in the memory that a training step uses, so that previews take no more.
  std::vector<flame::Image> decode(const std::vector<Tensor>& latents) const override {
    const flame::ArenaScope arena(device_);
    const VAE vae = vae_ ? *vae_ : load_vae();
    std::vector<flame::Image> pictures;
    for (const Tensor& each : latents) pictures.push_back(picture_of(vae, each));
    return pictures;
  }

  size_t tokens_cut(const std::string& caption) const override {
    return ClipTokenizer::frame(text_->tokenizer.encode(caption), ClipTokenizer::kPadL).cut;
  }

  LoraTargets trained_targets() const override { return lora_targets(unet_, LoraPart::unet); }

  LoraTargets all_targets() const override { return sdxl_lora_targets(unet_, text_->clip_l, text_->clip_g); }

  bool can_fuse() const override { return unet_.can_fuse(); }
  void fuse(MemoryPolicy policy) override { unet_.fuse(policy); }
  void refresh() const override { unet_.refresh(); }

  Tensor loss_weights(double min_snr_gamma) const override {
    if (min_snr_gamma == 0) return {};
    return timestep_table(min_snr_weights(schedule_, min_snr_gamma, prediction_), device_);
  }

  Tensor predict(const Tensor& x, const Tensor& timesteps, const Conditioning& condition) const override {
    return unet_(x, timesteps, condition.context, condition.pooled, condition.time_ids);
  }

  Tensor loss(const Tensor& latents, const Tensor& noise, const Tensor& timesteps, const Conditioning& condition,
              const Tensor& weights) const override {
    const Tensor noisy = schedule_.add_noise(latents, noise, timesteps);
    const Tensor prediction = predict(noisy, timesteps, condition).to(flame::DType::f32);
    const Tensor target = schedule_.target(prediction_, latents, noise, timesteps);
    if (!weights.defined()) return flame::mse_loss(prediction, target);
    return flame::weighted_mse_loss(prediction, target, at_timesteps(weights, timesteps));
  }

  Denoiser denoiser() const override { return denoiser_; }
  std::string prediction_type() const override { return prediction_ == Prediction::v ? "v" : "epsilon"; }

  int64_t timesteps() const override { return NoiseSchedule::steps; }

 private:
  VAE load_vae() const { return VAE::from_safetensors(path_, device_); }

  std::filesystem::path path_;
  flame::Device device_;
  Prediction prediction_;
  NoiseSchedule schedule_;
  Denoiser denoiser_;
  UNet unet_;
  std::optional<VAE> vae_;
  std::optional<TextEncoders> text_;
};

}  // namespace

std::unique_ptr<Family> load_sdxl(const std::filesystem::path& checkpoint, flame::Device device, flame::DType dtype) {
  return std::make_unique<Sdxl>(Checkpoint(checkpoint), device, dtype);
}

}  // namespace eri
