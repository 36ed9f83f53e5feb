#include "eri/sampling/sdxl_sampler.h"

#include "eri/diffusion/samplers.h"
#include "eri/lora/sdxl_lora.h"
#include "eri/models/autoencoder_kl.h"
#include "eri/models/checkpoint.h"
#include "eri/models/text_conditioning.h"
#include "eri/models/unet.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {

using flame::Shape;
using flame::Tensor;

struct SDXLSampler::Models {
  Models(const Checkpoint& checkpoint, flame::Device device, flame::DType dtype)
      : denoiser(NoiseSchedule(checkpoint.zero_terminal_snr()),
                 checkpoint.v_prediction() ? Prediction::v : Prediction::epsilon),
        text(TextEncoders::from_safetensors(checkpoint.path(), device, dtype)),
        unet(UNet::from_safetensors(checkpoint.path(), device, dtype)),
        vae(VAE::from_safetensors(checkpoint.path(), device)),
        device(device),
        targets(sdxl_lora_targets(unet, text.clip_l, text.clip_g)) {}

  Denoiser denoiser;
  TextEncoders text;
  UNet unet;
  VAE vae;
  flame::Device device;
  LoraTargets targets;  // every layer that a LoRA may have
  std::vector<std::pair<LoRA, double>> loras;
};

SDXLSampler::SDXLSampler(const std::filesystem::path& checkpoint, flame::Device device, flame::DType dtype)
    : models_(std::make_unique<Models>(Checkpoint(checkpoint), device, dtype)) {}

SDXLSampler::~SDXLSampler() = default;

void SDXLSampler::add_lora(const std::filesystem::path& file, double strength) {
  models_->loras.emplace_back(LoRA::from_safetensors(file), strength);
  apply_loras(models_->loras, models_->targets);
}

Tensor SDXLSampler::sample_latents(const std::string& prompt, const Tensor& noise, int steps,
                                   const SampleOptions& options) const {
  const auto& [denoiser, text, unet, vae, device, targets, loras] = *models_;
  const bool guided = options.cfg != 1;

  // 1. Prompt and negative prompt go through the network side by side.
  const std::vector<std::string> prompts = guided ? std::vector{prompt, options.negative_prompt} : std::vector{prompt};
  const int64_t rows = static_cast<int64_t>(prompts.size());
  const auto [context, pooled] = text.encode(prompts);
  const float height = static_cast<float>(options.height), width = static_cast<float>(options.width);
  const Tensor time_ids =
      flame::repeat(Tensor::from({height, width, 0.0f, 0.0f, height, width}, {1, 6}, device), 0, rows);

  // 2. The guided estimate of the picture: negative + cfg (positive - negative).
  const auto estimate = [&](const Tensor& x, double sigma) {
    const Tensor t = Tensor::full({rows}, static_cast<double>(denoiser.timestep(sigma)), flame::DType::i64, device);
    const Tensor input = flame::repeat(denoiser.scaled_input(x, sigma), 0, rows);
    const Tensor output = unet(input, t, context, pooled, time_ids).to(flame::DType::f32);
    const Tensor positive = denoiser.denoised(x, output.rows(0, 1), sigma);
    if (!guided) return positive;
    const Tensor negative = denoiser.denoised(x, output.rows(1, 1), sigma);
    return negative + (positive - negative) * static_cast<float>(options.cfg);
  };

  // 3. From noise to latents.
  const std::vector<double> sigmas = schedule_sigmas("normal", denoiser, steps);
  return run_sampler("euler", denoiser.start(noise, sigmas.front()), sigmas, estimate);
}

flame::Image SDXLSampler::sample(const std::string& prompt, int steps, const SampleOptions& options) const {
  const int64_t multiple = models_->vae.size_multiple() * models_->unet.size_multiple();
  for (int64_t side : {options.width, options.height}) {
    if (side < multiple || side % multiple != 0)
      flame::fail("width and height must be multiples of ", multiple, ", got ", options.width, " and ", options.height);
  }
  flame::Generator generator(options.seed);
  const Shape shape{1, models_->vae.latent_channels(), options.height / models_->vae.size_multiple(),
                    options.width / models_->vae.size_multiple()};
  const Tensor latents = sample_latents(prompt, Tensor::randn(shape, generator, models_->device), steps, options);
  return flame::from_tensor(models_->vae.decode(latents)).front();
}

}  // namespace eri
