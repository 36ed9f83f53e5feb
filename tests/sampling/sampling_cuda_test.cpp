// Drawing on a GPU: captured and plain, fused and layer by layer. Skipped where there is no GPU.
#include <gtest/gtest.h>

#include "eri/lora/sdxl_lora.h"
#include "eri/models/synthetic.h"
#include "eri/sampling/drawing.h"
#include "eri/sampling/picture_noise.h"
#include "eri/sampling/sdxl_sampler.h"
#include "flame/io/safetensors.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "tests/distance.h"
#include "tests/io/files.h"
#include "tests/models/small_unet.h"

namespace eri {
namespace {

using flame::Device;
using flame::distance;
using flame::DType;
using flame::Generator;
using flame::Scope;
using flame::testing::error_of;
using flame::testing::TemporaryFolder;

constexpr const char* tiny = "models/eri-tiny.safetensors";

UNet make(DType dtype) {
  const SyntheticCheckpoint source(small_unet(), 3, unet_prefix);
  return UNet(Scope(source, dtype, Device::cuda(0)));
}

Conditioning condition_of(int64_t rows, DType dtype) {
  Generator generator(7);
  const auto random = [&](const flame::Shape& shape) {
    return Tensor::randn(shape, generator).to(dtype).to(Device::cuda(0));
  };
  const Tensor context = random({rows, 77, 192}), pooled = random({rows, 128});
  return {context, pooled, Tensor::full({rows, 6}, 128, DType::f32, Device::cuda(0))};
}

LatentSampler sampler_of(const UNet& unet, bool graphs) {
  return {Denoiser(NoiseSchedule(), Prediction::epsilon),
          [&unet](const Tensor& x, const Tensor& t, const Conditioning& condition) {
            return unet(x, t, condition.context, condition.pooled, condition.time_ids);
          },
          Device::cuda(0), graphs};
}

class CudaSampling : public testing::Test {
 protected:
  static void SetUpTestSuite() { ::setenv("ERI_PLAN_CACHE", "off", 0); }  // leaves the user's alone
  void SetUp() override {
    if (flame::cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU here";
  }
};

// Two LoRAs, the second of another rank and with a part of the modules only.
void add_loras(const UNet& unet, bool to_be_fused) {
  const LoraTargets targets = lora_targets(unet, LoraPart::unet);
  const LoRA first = random_lora(targets, {.dim = 4, .alpha = 0.2, .conv_dim = 2, .conv_alpha = 0.1, .seed = 1});
  const LoRA all = random_lora(targets, {.dim = 9, .alpha = 0.5, .conv_dim = 3, .conv_alpha = 0.1, .seed = 2});
  LoRA::Modules some;
  for (const auto& [name, module] : all.modules())
    if (name.find("to_k") == name.npos && name.find("ff_net_2") == name.npos) some[name] = module;
  const std::vector<std::pair<LoRA, double>> loras = {{first, 0.7}, {LoRA(std::move(some)), -0.4}};
  apply_loras(loras, targets, to_be_fused ? lora_targets(unet, LoraPart::unet) : LoraTargets());
}

TEST_F(CudaSampling, CapturedAndPlainGiveTheSameBits) {
  UNet unet = make(DType::bf16);
  add_loras(unet, true);
  unet.fuse();
  LatentSampler captured = sampler_of(unet, true), plain = sampler_of(unet, false);
  // Shapes in turn, two pictures of each; one so small that attention is computed in another way.
  for (int picture = 0; picture < 2; ++picture) {
    for (int64_t rows : {2, 1}) {
      for (const flame::Shape& shape : {flame::Shape{1, 4, 24, 16}, flame::Shape{1, 4, 8, 8}}) {
        const Conditioning condition = condition_of(rows, DType::bf16);
        const Tensor noise = unit_noise(static_cast<uint64_t>(picture), shape, Device::cuda(0));
        const double cfg = 3 + picture;
        const Sampling how{
            .sampler = picture ? "dpmpp_2m" : "euler", .steps = 6, .cfg = cfg, .cfg_rescale = 0.5 * picture};
        const Tensor expected = plain(noise, condition, how);
        EXPECT_EQ(captured(noise, condition, how).to_host<float>(), expected.to_host<float>())
            << shape << ", " << rows << " rows, picture " << picture;
        EXPECT_GT(distance(noise, expected), 0.1);
      }
    }
  }
  EXPECT_GT(captured.graph_nodes(), 0u);
  EXPECT_EQ(plain.graph_nodes(), 0u);
}

// Two pictures at once, guidance rescaled, noise drawn on the GPU or copied to it: every sampler, in f32.
TEST_F(CudaSampling, EverySamplerDrawsWhatItDrawsOnTheCpu) {
  const uint64_t seeds[] = {3, 4};
  const flame::Shape shape{1, 4, 12, 16};
  const flame::SafetensorsFile file("tests/data/comfyui_latents.safetensors");
  const auto twice = [&](const Tensor& rows, Device device) { return flame::repeat(rows, 0, 2).to(device); };
  const auto latents = [&](const UNet& unet, Device device, const Sampling& how, NoiseSource source) {
    LatentSampler sampler(
        Denoiser(NoiseSchedule(), Prediction::epsilon),
        [&](const Tensor& x, const Tensor& t, const Conditioning& c) {
          return unet(x, t, c.context, c.pooled, c.time_ids);
        },
        device);
    const Conditioning condition = {twice(file.tensor("context"), device), twice(file.tensor("pooled"), device),
                                    Tensor::full({4, 6}, 128, DType::f32, device)};
    return sampler(unit_noise(seeds, shape, device, source), condition, how,
                   step_noise(how.sampler, seeds, shape, sampler.sigmas(how), device, source));
  };
  const UNet on_cpu = UNet::from_safetensors(tiny), on_gpu = UNet::from_safetensors(tiny, Device::cuda(0));
  for (const std::string& name : sampler_names()) {
    for (NoiseSource source : {NoiseSource::philox, NoiseSource::comfy}) {
      const Sampling how{.sampler = name, .scheduler = "karras", .steps = 6, .cfg = 2, .cfg_rescale = 0.5};
      const Tensor expected = latents(on_cpu, Device::cpu(), how, source);
      EXPECT_LT(distance(latents(on_gpu, Device::cuda(0), how, source), expected), 1e-3) << name;
    }
  }
}

// In 16 bits the fused UNet's latents are about as far from f32's as the layers' one by one.
TEST_F(CudaSampling, FusedIsAsNearToF32AsLayerByLayer) {
  const Tensor noise = unit_noise(1, {1, 4, 32, 32}, Device::cuda(0));
  const auto latents = [&](DType dtype, bool fused) {
    UNet unet = make(dtype);
    add_loras(unet, fused);
    if (fused) unet.fuse();
    LatentSampler sampler = sampler_of(unet, true);
    return sampler(noise, condition_of(2, DType::bf16), {.steps = 4, .cfg = 3});
  };
  const Tensor expected = latents(DType::f32, false);
  for (DType dtype : {DType::bf16, DType::f16}) {
    const double layer_by_layer = distance(latents(dtype, false), expected);
    const double fused = distance(latents(dtype, true), expected);
    std::cout << dtype << ": fused " << fused << ", layer by layer " << layer_by_layer << "\n";
    EXPECT_LT(fused, 1.5 * layer_by_layer) << dtype;
    EXPECT_LT(layer_by_layer, 0.1) << dtype;
  }
}

SampleRequest cat() {
  return {.prompt = "blueprint of a cat", .steps = 5, .options = {.cfg = 2, .width = 128, .height = 128}};
}

TEST_F(CudaSampling, DrawsWhatTheCpuDraws) {
  const TemporaryFolder folder;
  const LoraTargets targets = sdxl_lora_targets(Checkpoint(tiny), true);
  random_lora(targets, {.dim = 4, .alpha = 0.4, .conv_dim = 2, .conv_alpha = 0.2, .seed = 1})
      .save(folder / "lora.safetensors");
  const Tensor noise = unit_noise(1, {1, 4, 16, 16}, Device::cpu());
  const auto latents = [&](Device device, DType dtype) {
    SDXLSampler sampler(tiny, device, dtype);
    sampler.add_lora(folder / "lora.safetensors", 0.8);
    const SampleRequest request = cat();
    return sampler.sample_latents(std::span(&request, 1), noise.to(device));
  };
  const Tensor expected = latents(Device::cpu(), DType::f32);
  EXPECT_LT(distance(latents(Device::cuda(0), DType::f32), expected), 1e-3);
  const double rounded = distance(latents(Device::cpu(), DType::bf16), expected);
  const double fused = distance(latents(Device::cuda(0), DType::bf16), expected);
  std::cout << "bf16 on the GPU " << fused << ", on the CPU " << rounded << "\n";
  EXPECT_LT(fused, 1.5 * rounded);
}

TEST_F(CudaSampling, PicturesLeaveNothing) {
  SDXLSampler sampler(tiny, Device::cuda(0), DType::bf16);
  const flame::Image first = sampler.sample(cat());
  flame::MemoryUse after_first;
  for (int picture = 0; picture < 5; ++picture) {
    EXPECT_EQ(sampler.sample(cat()), first) << "picture " << picture;
    if (picture == 0) after_first = flame::memory_use(Device::cuda(0));
  }
  EXPECT_EQ(flame::memory_use(Device::cuda(0)).current, after_first.current);
  EXPECT_EQ(flame::memory_use(Device::cuda(0)).reserved, after_first.reserved);
  const std::string message = error_of([&] { sampler.add_lora("other.safetensors"); });
  EXPECT_NE(message.find("other.safetensors: a LoRA is added before the first picture"), message.npos) << message;
}

}  // namespace
}  // namespace eri
