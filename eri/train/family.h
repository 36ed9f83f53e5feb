#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "eri/data/image_dataset.h"
#include "eri/diffusion/conditioning.h"
#include "eri/diffusion/denoiser.h"
#include "eri/diffusion/diffusion_loss.h"
#include "eri/diffusion/training_noise.h"
#include "eri/lora/lora_options.h"
#include "eri/models/checkpoint.h"
#include "eri/models/fused_unet.h"
#include "flame/core/tensor.h"

namespace eri {

// All that the trainer knows of a model. A new kind of model is one more of these.
class Family {
 public:
  virtual ~Family() = default;

  // The encoders are there from the beginning; release_encoders() frees those that do not train, load_network() brings
  // the network: a GPU need not hold both. Captions and sizes, one each, become rows; pixels are [N, 3, H, W]. Where
  // text encoders train, rows have the captions' ids, which loss() encodes.
  virtual Conditioning encode_text(const std::vector<std::string>& captions,
                                   const std::vector<SizeConditioning>& sizes) const = 0;
  virtual bool trains_text() const = 0;
  // Prompts as ComfyUI encodes them for drawing; captions are encoded as sd-scripts does for training.
  virtual Conditioning encode_prompts(const std::vector<std::string>& prompts,
                                      const std::vector<SizeConditioning>& sizes) const = 0;
  virtual flame::Tensor encode_pictures(const flame::Tensor& pixels, const flame::Tensor& noise) const = 0;
  // How many of them are encoded together quicker than one by one.
  virtual size_t captions_at_once() const = 0;
  virtual size_t pictures_at_once(int64_t height, int64_t width) const = 0;
  virtual flame::Shape latent_shape(int64_t batch, int64_t height, int64_t width) const = 0;
  virtual int64_t size_multiple() const = 0;  // what a picture's sides must be multiples of
  virtual flame::Tensor time_ids(const std::vector<SizeConditioning>& sizes) const = 0;  // [N, 6] f32, on the CPU
  virtual void release_encoders() = 0;
  virtual void load_network() = 0;
  virtual flame::Device device() const = 0;

  // Pictures of latents, each [1, C, h, w] f32. Where release_encoders() has freed the decoder, it is loaded for the
  // call.
  virtual std::vector<flame::Image> decode(const std::vector<flame::Tensor>& latents) const = 0;

  // How much of `caption` its text encoders cut off, in tokens.
  virtual size_t tokens_cut(const std::string& caption) const = 0;

  // Where training may put a LoRA. Once it has decided where, train() is told, before captions are encoded; there the
  // layers are, once the network is loaded. All that a LoRA file may change (while all encoders are there).
  virtual LoraSites lora_sites() const = 0;
  virtual void train(const LoraPlan& plan) = 0;
  virtual LoraTargets trained_targets() const = 0;
  virtual LoraTargets all_targets() const = 0;

  // Rebuilds the model for speed, with the adapters that its layers have, which must be f32; refresh() tells it of
  // their changes from then on.
  virtual bool can_fuse() const = 0;
  virtual void fuse(MemoryPolicy policy) = 0;
  virtual void refresh() const = 0;

  virtual std::string prediction_type() const = 0;  // "epsilon" or "v"
  virtual Denoiser denoiser() const = 0;            // how its predictions become pictures
  // What the model predicts in x [N, C, h, w] (f32) at timesteps [N] (i64).
  virtual flame::Tensor predict(const flame::Tensor& x, const flame::Tensor& timesteps,
                                const Conditioning& condition) const = 0;
  // What its errors cost; throws where the options do not go with what it predicts.
  virtual DiffusionLoss loss_of(const LossOptions& options) const = 0;
  // Loss of one batch, f32 []. All that it reads is on the device, so that a step can be captured. latents: f32.
  virtual flame::Tensor loss(const flame::Tensor& latents, const TrainingNoise& noise, const Conditioning& condition,
                             const DiffusionLoss& cost) const = 0;
  virtual int64_t timesteps() const = 0;  // there are [0, timesteps())
};

struct SdxlOptions {
  flame::DType dtype = flame::DType::f32;  // of the UNet and the text encoders; the autoencoder's is vae_dtype()
  bool no_half_vae = false;
  int64_t max_token_length = 75;  // what is kept of captions: a multiple of 75
};

// Stable Diffusion XL. The UNet is loaded by load_network().
std::unique_ptr<Family> load_sdxl(const Checkpoint& checkpoint, flame::Device device, const SdxlOptions& options = {});

}  // namespace eri
