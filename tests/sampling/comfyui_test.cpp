// The same seed and settings give ComfyUI's latents: what tests/reference/comfyui_latents.py drew with it on a CPU.
#include <gtest/gtest.h>

#include "eri/models/unet.h"
#include "eri/sampling/drawing.h"
#include "eri/sampling/picture_noise.h"
#include "flame/io/safetensors.h"
#include "tests/distance.h"

namespace eri {
namespace {

TEST(ComfyUI, DrawsTheSameFromASeed) {
  const flame::SafetensorsFile file("tests/data/comfyui_latents.safetensors");
  const UNet unet = UNet::from_safetensors("models/eri-tiny.safetensors");
  const flame::Device cpu = flame::Device::cpu();
  LatentSampler sampler(
      Denoiser(NoiseSchedule(), Prediction::epsilon),
      [&](const Tensor& x, const Tensor& t, const Conditioning& c) {
        return unet(x, t, c.context, c.pooled, c.time_ids);
      },
      cpu);
  const std::vector<float> sizes = {96, 128, 0, 0, 96, 128, 96, 128, 0, 0, 96, 128};
  const Conditioning condition = {file.tensor("context"), file.tensor("pooled"), Tensor::from(sizes, {2, 6})};
  const uint64_t seeds[] = {1234567};
  int cases = 0;
  for (const auto& [name, entry] : file.entries()) {
    if (!name.starts_with("latents.")) continue;
    const size_t dot = name.rfind('.');
    const Sampling how{.sampler = name.substr(8, dot - 8), .scheduler = name.substr(dot + 1), .steps = 6, .cfg = 3};
    const flame::Shape shape{1, 4, 12, 16};
    const Tensor drawn = sampler(unit_noise(seeds, shape, cpu, NoiseSource::comfy), condition, how,
                                 step_noise(how.sampler, seeds, shape, sampler.sigmas(how), cpu, NoiseSource::comfy));
    const double error = flame::distance(drawn, file.tensor(name));
    EXPECT_LT(error, 1e-4) << name;
    std::cout << name << ": " << error << "\n";
    ++cases;
  }
  EXPECT_EQ(cases, 10);
}

}  // namespace
}  // namespace eri
