#include "eri/sampling/sdxl_sampler.h"

#include <chrono>
#include <iostream>

#include "eri/lora/sdxl_lora.h"
#include "eri/models/text_conditioning.h"
#include "eri/models/unet.h"
#include "eri/models/vae.h"
#include "eri/sampling/drawing.h"
#include "flame/ops/layout.h"

namespace eri {

using flame::Shape;
using flame::Tensor;

struct SDXLSampler::Models {
  Models(const Checkpoint& checkpoint, flame::Device device, flame::DType dtype, bool graphs, bool no_half_vae)
      : text(TextEncoders::from_checkpoint(checkpoint, device, dtype)),
        unet(UNet::from_checkpoint(checkpoint, device, dtype)),
        vae(checkpoint.vae(), vae_dtype(dtype, device, no_half_vae), device),
        device(device),
        targets(sdxl_lora_targets(unet, text.clip_l, text.clip_g)),
        latents(
            Denoiser(NoiseSchedule(checkpoint.parametrization().zero_terminal_snr),
                     checkpoint.parametrization().v_prediction ? Prediction::v : Prediction::epsilon),
            [this](const Tensor& x, const Tensor& timesteps, const Conditioning& condition) {
              return unet(x, timesteps, condition.context, condition.pooled, condition.time_ids);
            },
            device, graphs) {}

  // Hands the LoRAs to the layers, before these give their weights away.
  void apply() { apply_loras(loras, targets, unet.can_fuse() ? lora_targets(unet, LoraPart::unet) : LoraTargets()); }

  TextEncoders text;
  UNet unet;
  VAE vae;
  flame::Device device;
  LoraTargets targets;  // every layer that a LoRA may have
  std::vector<std::pair<LoRA, double>> loras;
  LatentSampler latents;
};

namespace {

// Seconds until the device has done what it was given.
class Stopwatch {
 public:
  explicit Stopwatch(flame::Device device) : device_(device) {}
  double lap() {
    flame::synchronize(device_);
    const auto before = std::exchange(last_, Clock::now());
    return std::chrono::duration<double>(last_ - before).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  flame::Device device_;
  Clock::time_point last_ = Clock::now();
};

}  // namespace

SDXLSampler::SDXLSampler(const Checkpoint& checkpoint, flame::Device device, flame::DType dtype, bool graphs,
                         bool no_half_vae)
    : models_(std::make_unique<Models>(checkpoint, device, dtype, graphs, no_half_vae)) {}

SDXLSampler::SDXLSampler(SDXLSampler&&) noexcept = default;
SDXLSampler::~SDXLSampler() = default;

void SDXLSampler::add_lora(const std::filesystem::path& file, double strength) {
  if (models_->unet.is_fused())
    flame::fail(file.string(), ": a LoRA is added before the first picture; then the UNet's layers are fused with it. ",
                "Load the model again for other LoRAs");
  const LoRA lora = LoRA::from_safetensors(file, models_->targets);
  for (const std::string& warning : lora.warnings()) std::cerr << "warning: " << warning << std::endl;
  models_->loras.emplace_back(lora, strength);
  try {
    models_->apply();
  } catch (const flame::Error& error) {
    flame::fail(file.string(), ": ", error.what());
  }
}

void SDXLSampler::prepare() {
  UNet& unet = models_->unet;
  if (unet.can_fuse() && !unet.is_fused()) unet.fuse();
}

Tensor SDXLSampler::sample_latents(std::span<const SampleRequest> requests, const Tensor& noise,
                                   const StepNoise& step_noise) {
  auto& [text, unet, vae, device, targets, loras, latents] = *models_;
  prepare();
  Stopwatch watch(device);
  const SampleRequest& first = requests.front();
  std::vector<std::string> texts;  // all prompts, then all negative prompts
  for (size_t row = 0; row < first.texts().size(); ++row) {
    for (const SampleRequest& request : requests) texts.push_back(request.texts().at(row));
  }
  const auto [context, pooled] = text.prompts(texts);
  const auto height = static_cast<float>(first.options.height), width = static_cast<float>(first.options.width);
  const Tensor ids = Tensor::from({height, width, 0.0f, 0.0f, height, width}, {1, 6}, device);
  const Conditioning condition{unet.read_text(context), pooled, flame::repeat(ids, 0, std::ssize(texts))};
  times_.text = watch.lap();
  const Tensor result = latents(noise, condition, first.sampling(), step_noise);
  times_.steps = watch.lap();
  return result;
}

flame::Image SDXLSampler::sample(const SampleRequest& request, NoiseSource noise) {
  return sample(std::span(&request, 1), noise).front();
}

std::vector<flame::Image> SDXLSampler::sample(std::span<const SampleRequest> requests, NoiseSource noise) {
  const auto& [prompt, steps, options] = requests.front();
  const int64_t multiple = models_->vae.size_multiple();
  require_size(options, multiple * models_->unet.size_multiple());
  const Shape shape{1, models_->vae.latent_channels(), options.height / multiple, options.width / multiple};
  std::vector<uint64_t> seeds;
  for (const SampleRequest& request : requests) seeds.push_back(request.options.seed);
  const flame::Device device = models_->device;
  const std::vector<double> sigmas = models_->latents.sigmas(requests.front().sampling());
  const Tensor latents = sample_latents(requests, unit_noise(seeds, shape, device, noise),
                                        step_noise(options.sampler, seeds, shape, sigmas, device, noise));
  Stopwatch watch(device);
  std::vector<flame::Image> pictures = pictures_of(models_->vae, latents);
  times_.decode = watch.lap();
  return pictures;
}

}  // namespace eri
