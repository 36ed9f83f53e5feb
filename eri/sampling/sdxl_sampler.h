#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "eri/models/checkpoint.h"
#include "eri/sampling/picture_noise.h"
#include "eri/sampling/sample_request.h"
#include "flame/core/tensor.h"
#include "flame/io/image.h"

namespace eri {

// What the pictures of a batch took, in seconds.
struct SampleTimes {
  double text = 0, steps = 0, decode = 0;  // the text encoders, all steps of the UNet, the autoencoder
  double total() const { return text + steps + decode; }
};

// Pictures from text with an SDXL checkpoint and any number of LoRAs. The UNet and the text encoders compute in
// `dtype`, the autoencoder in vae_dtype(). On a GPU in f16 or bf16 the UNet is fused before the first picture, and on
// any GPU a step is captured once for each shape, if `graphs`.
class SDXLSampler {
 public:
  explicit SDXLSampler(const Checkpoint& checkpoint, flame::Device device = flame::Device::cpu(),
                       flame::DType dtype = flame::DType::f32, bool graphs = true, bool no_half_vae = false);
  explicit SDXLSampler(const std::filesystem::path& checkpoint, flame::Device device = flame::Device::cpu(),
                       flame::DType dtype = flame::DType::f32)
      : SDXLSampler(Checkpoint(checkpoint), device, dtype) {}
  SDXLSampler(SDXLSampler&&) noexcept;
  ~SDXLSampler();

  // Throws if layers have been fused: LoRAs are a part of that.
  void add_lora(const std::filesystem::path& file, double strength = 1);
  void prepare();  // what else there is to do before the first picture, which does it if it was not called

  flame::Image sample(const SampleRequest& request, NoiseSource noise = NoiseSource::philox);
  // Pictures that are drawn together: requests that differ in texts and seeds only.
  std::vector<flame::Image> sample(std::span<const SampleRequest> requests, NoiseSource noise = NoiseSource::philox);
  // The latents [N, 4, h/8, w/8] that sample() decodes, from unit noise of that shape.
  flame::Tensor sample_latents(std::span<const SampleRequest> requests, const flame::Tensor& noise,
                               const StepNoise& step_noise = {});

  const SampleTimes& times() const { return times_; }  // of the last batch

 private:
  struct Models;
  std::unique_ptr<Models> models_;
  SampleTimes times_;
};

}  // namespace eri
