// What a picture says about how it was made.
#include "eri/sampling/parameters_text.h"

#include <gtest/gtest.h>

#include "eri/diffusion/samplers.h"
#include "eri/diffusion/sigma_schedules.h"
#include "flame/io/safetensors.h"
#include "tests/io/files.h"

namespace eri {
namespace {

using flame::testing::TemporaryFolder;

TEST(ParametersText, IsA1111s) {
  SampleRequest request{.prompt = "a cat, sitting", .steps = 24};
  request.options = {.seed = 7, .cfg = 5.5, .width = 832, .height = 1216};
  EXPECT_EQ(parameters_text(request, "sdxl", {}, NoiseSource::philox),
            "a cat, sitting\n"
            "Steps: 24, Sampler: Euler, Schedule type: Normal, CFG scale: 5.5, Seed: 7, Size: 832x1216, Model: sdxl, "
            "Version: EriDiffusion");
  request.options.negative_prompt = "blurry";
  request.options.sampler = "dpmpp_2m_sde";
  request.options.scheduler = "karras";
  request.options.cfg_rescale = 0.7;
  EXPECT_EQ(
      parameters_text(request, "a, b", {{"cats", 0.8, "0123456789ab"}, {"ink", 1, "ba9876543210"}}, NoiseSource::comfy),
      "a cat, sitting <lora:cats:0.8> <lora:ink:1>\n"
      "Negative prompt: blurry\n"
      "Steps: 24, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 5.5, Seed: 7, Size: 832x1216, "
      "Model: \"a, b\", CFG rescale: 0.7, RNG: CPU, Lora hashes: \"cats: 0123456789ab, ink: ba9876543210\", "
      "Version: EriDiffusion");
}

TEST(ParametersText, HasAWordForEverySamplerAndSchedule) {
  for (const std::string& sampler : sampler_names()) {
    for (const std::string& scheduler : schedule_names()) {
      SampleRequest request;
      request.options.sampler = sampler;
      request.options.scheduler = scheduler;
      EXPECT_FALSE(parameters_text(request, "m", {}, NoiseSource::philox).empty());
    }
  }
}

TEST(ParametersText, ALorasHashIsTheOneItNotesOrThatOfItsTensors) {
  const TemporaryFolder folder;
  const flame::Tensor tensor = flame::Tensor::from({1.0f}, {1});
  flame::write_safetensors(folder / "noted.safetensors", {{"x", tensor}}, {{"sshs_model_hash", "00112233445566"}});
  flame::write_safetensors(folder / "plain.safetensors", {{"x", tensor}});
  EXPECT_EQ(used_lora(folder / "noted.safetensors", 0.5).hash, "001122334455");
  const UsedLora plain = used_lora(folder / "plain.safetensors", 0.5);
  EXPECT_EQ(plain.name, "plain");
  EXPECT_EQ(plain.hash, "e00e5eb94441");  // printf '\\0\\0\\200\\077' | sha256sum
}

}  // namespace
}  // namespace eri
