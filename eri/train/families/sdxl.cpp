#include <algorithm>
#include <optional>
#include <set>
#include <thread>

#include "eri/diffusion/noise_schedule.h"
#include "eri/lora/sdxl_lora.h"
#include "eri/models/checkpoint.h"
#include "eri/models/text_conditioning.h"
#include "eri/models/unet.h"
#include "eri/models/vae.h"
#include "eri/sampling/drawing.h"
#include "eri/train/family.h"

namespace eri {
namespace {

using flame::Shape;

std::jthread reader_of(const Checkpoint& checkpoint) {
  return std::jthread([checkpoint](const std::stop_token& stop) { checkpoint.read_ahead(stop); });
}

class Sdxl : public Family {
 public:
  Sdxl(const Checkpoint& checkpoint, flame::Device device, const SdxlOptions& options)
      : device_(device),
        chunks_(options.max_token_length / kChunkTokens),
        vae_dtype_(vae_dtype(options.dtype, device, options.no_half_vae)),
        prediction_(checkpoint.parametrization().v_prediction ? Prediction::v : Prediction::epsilon),
        schedule_(checkpoint.parametrization().zero_terminal_snr, device),
        denoiser_(schedule_, prediction_),
        checkpoint_(checkpoint),
        dtype_(options.dtype),
        read_ahead_(device.is_cpu() ? std::jthread() : reader_of(checkpoint)),
        unet_size_multiple_(UNet::size_multiple(flame::Scope(*checkpoint.unet(), dtype_, device))),
        vae_(load_vae()),
        text_(TextEncoders::from_checkpoint(checkpoint, device, dtype_)) {}

  Conditioning encode_text(const std::vector<std::string>& captions,
                           const std::vector<SizeConditioning>& sizes) const override {
    if (trains_text())
      return {.time_ids = time_ids(sizes).to(device_), .ids = text().caption_ids(captions, chunks_, device_)};
    const TextConditioning encoded = text().captions(captions, chunks_);
    return {encoded.context, encoded.pooled, time_ids(sizes).to(device_)};
  }

  bool trains_text() const override { return trains_.contains(LoraPart::clip_l) || trains_.contains(LoraPart::clip_g); }

  Conditioning encode_prompts(const std::vector<std::string>& prompts,
                              const std::vector<SizeConditioning>& sizes) const override {
    const TextConditioning encoded = text().prompts(prompts);
    return {encoded.context, encoded.pooled, time_ids(sizes).to(device_)};
  }

  Tensor time_ids(const std::vector<SizeConditioning>& sizes) const override {
    std::vector<float> ids;
    for (const SizeConditioning& size : sizes) {
      for (int64_t id : {size.original_height, size.original_width, size.crop_top, size.crop_left, size.target_height,
                         size.target_width})
        ids.push_back(static_cast<float>(id));
    }
    return Tensor::from(ids, {std::ssize(sizes), 6});
  }

  Tensor encode_pictures(const Tensor& pixels, const Tensor& noise) const override {
    return vae().encode(pixels.to(device_), noise.to(device_));
  }

  Shape latent_shape(int64_t batch, int64_t height, int64_t width) const override {
    const int64_t multiple = vae().size_multiple();
    return {batch, vae().latent_channels(), height / multiple, width / multiple};
  }

  // A GPU is busy with one picture of 1024 x 1024; the CPU shares one among its threads.
  size_t pictures_at_once(int64_t height, int64_t width) const override {
    constexpr int64_t most = 8, pixels = 1024 * 1024;
    return device_.is_cpu() ? 1 : static_cast<size_t>(std::clamp<int64_t>(pixels / (height * width), 1, most));
  }
  size_t captions_at_once() const override { return device_.is_cpu() ? 1 : 16; }

  int64_t size_multiple() const override { return vae().size_multiple() * unet_size_multiple_; }

  void release_encoders() override {
    vae_.reset();
    if (!trains_text()) text_.reset();
  }

  void load_network() override {
    if (!unet_) unet_.emplace(UNet::from_checkpoint(checkpoint_, device_, dtype_));
  }

  flame::Device device() const override { return device_; }

  // Weights that are loaded for the call lie in the memory that a training step uses, so that previews take no more.
  std::vector<flame::Image> decode(const std::vector<Tensor>& latents) const override {
    const flame::ArenaScope arena(device_);
    const VAE vae = vae_ ? *vae_ : load_vae();
    std::vector<flame::Image> pictures;
    for (const Tensor& each : latents) pictures.push_back(pictures_of(vae, each).front());
    return pictures;
  }

  size_t tokens_cut(const std::string& caption) const override {
    const size_t tokens = text().tokenizer.encode(caption).size(), room = static_cast<size_t>(chunks_ * kChunkTokens);
    return tokens - std::min(tokens, room);
  }

  LoraSites lora_sites() const override { return sdxl_lora_sites(checkpoint_); }

  void train(const LoraPlan& plan) override {
    for (const LoraSite& site : lora_sites())
      if (plan.contains(site.name)) trains_.insert(site.part);
  }

  LoraTargets trained_targets() const override {
    LoraTargets targets = lora_targets(unet(), LoraPart::unet, LoraPreset::full);
    const auto add = [&](LoraPart part, const CLIPTextEncoder& encoder) {
      for (const LoraTarget& target : lora_targets(encoder, part, LoraPreset::full)) targets.push_back(target);
    };
    if (trains_.contains(LoraPart::clip_l)) add(LoraPart::clip_l, text().clip_l);
    if (trains_.contains(LoraPart::clip_g)) add(LoraPart::clip_g, text().clip_g);
    return targets;
  }

  LoraTargets all_targets() const override { return sdxl_lora_targets(unet(), text().clip_l, text().clip_g); }

  bool can_fuse() const override { return unet().can_fuse(); }
  void fuse(MemoryPolicy policy) override { unet_->fuse(policy); }
  void refresh() const override { unet().refresh(); }

  DiffusionLoss loss_of(const LossOptions& options) const override {
    return DiffusionLoss(options, schedule_, prediction_, device_);
  }

  Tensor predict(const Tensor& x, const Tensor& timesteps, const Conditioning& condition) const override {
    return unet()(x, timesteps, condition.context, condition.pooled, condition.time_ids);
  }

  Tensor loss(const Tensor& latents, const TrainingNoise& noise, const Conditioning& condition,
              const DiffusionLoss& cost) const override {
    const Tensor noisy = schedule_.add_noise(latents, noise.added, noise.timesteps);
    const Tensor prediction = predict(noisy, noise.timesteps, encoded(condition)).to(flame::DType::f32);
    const Tensor target = schedule_.target(prediction_, latents, noise.noise, noise.timesteps);
    return cost(prediction, target, noise.timesteps);
  }

  Denoiser denoiser() const override { return denoiser_; }
  std::string prediction_type() const override { return prediction_ == Prediction::v ? "v" : "epsilon"; }

  int64_t timesteps() const override { return NoiseSchedule::steps; }

 private:
  Conditioning encoded(const Conditioning& condition) const {
    if (!condition.ids.defined()) return condition;
    const TextConditioning encoded = text().encode(condition.ids);
    return {encoded.context, encoded.pooled, condition.time_ids};
  }
  VAE load_vae() const { return VAE(checkpoint_.vae(), vae_dtype_, device_); }
  const UNet& unet() const {
    flame::require(unet_.has_value(), "Sdxl", "the UNet is not there: call load_network() before");
    return *unet_;
  }
  const VAE& vae() const {
    flame::require(vae_.has_value(), "Sdxl", "the autoencoder was released: ask before release_encoders()");
    return *vae_;
  }
  const TextEncoders& text() const {
    flame::require(text_.has_value(), "Sdxl", "the text encoders were released: ask before release_encoders()");
    return *text_;
  }

  flame::Device device_;
  int64_t chunks_;  // of CLIP's, for a caption
  std::set<LoraPart> trains_;
  flame::DType vae_dtype_;
  Prediction prediction_;
  NoiseSchedule schedule_;
  Denoiser denoiser_;
  Checkpoint checkpoint_;
  flame::DType dtype_;
  std::jthread read_ahead_;  // the UNet comes off the disk while pictures are encoded
  int64_t unet_size_multiple_;
  std::optional<UNet> unet_;
  std::optional<VAE> vae_;
  std::optional<TextEncoders> text_;
};

}  // namespace

std::unique_ptr<Family> load_sdxl(const Checkpoint& checkpoint, flame::Device device, const SdxlOptions& options) {
  return std::make_unique<Sdxl>(checkpoint, device, options);
}

}  // namespace eri
