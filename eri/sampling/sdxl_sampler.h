#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "flame/core/tensor.h"
#include "flame/io/image.h"

namespace eri {

struct SampleOptions {
  std::string negative_prompt;
  uint64_t seed = 0;
  double cfg = 7;  // 1 means no guidance
  int64_t width = 1024, height = 1024;
};

// Pictures from text with an SDXL checkpoint and any number of LoRAs: Euler over ComfyUI's `normal` schedule. The UNet
// and the text encoders compute in `dtype`, the rest in f32.
class SDXLSampler {
 public:
  explicit SDXLSampler(const std::filesystem::path& checkpoint, flame::Device device = flame::Device::cpu(),
                       flame::DType dtype = flame::DType::f32);
  ~SDXLSampler();

  void add_lora(const std::filesystem::path& file, double strength = 1);

  flame::Image sample(const std::string& prompt, int steps = 20, const SampleOptions& options = {}) const;
  // The latents [1, 4, h/8, w/8] that sample() decodes, from unit noise of that shape.
  flame::Tensor sample_latents(const std::string& prompt, const flame::Tensor& noise, int steps,
                               const SampleOptions& options) const;

 private:
  struct Models;
  std::unique_ptr<Models> models_;
};

}  // namespace eri
