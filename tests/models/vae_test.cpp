#include "eri/models/vae.h"

#include <gtest/gtest.h>

#include <limits>

#include "../nn/weight_map.h"
#include "eri/models/checkpoint.h"
#include "eri/models/vae_tiling.h"
#include "flame/io/safetensors.h"
#include "flame/ops/pointwise.h"
#include "tests/distance.h"

// That the network's numbers are right is checked by the parity cases.
namespace eri {
namespace {

using namespace flame;

const std::string kModel = "models/eri-tiny.safetensors";

std::shared_ptr<WeightMap> weights() {
  const auto source = Checkpoint(kModel).vae();
  std::map<std::string, Tensor> tensors;
  for (const std::string& name : source->names()) tensors[name] = source->read(name).to(DType::f32);
  return std::make_shared<WeightMap>(std::move(tensors));
}

// What f writes to standard error.
template <class F>
std::string said(const F& f) {
  testing::internal::CaptureStderr();
  f();
  return testing::internal::GetCapturedStderr();
}

TEST(VaeDtype, IsNeverF16AndF32WhereAskedFor) {
  const Device cpu = Device::cpu();
  for (DType dtype : {DType::f32, DType::f16, DType::bf16}) EXPECT_EQ(vae_dtype(dtype, cpu, false), DType::f32);
  if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  const Device gpu = Device::cuda();
  EXPECT_EQ(vae_dtype(DType::f16, gpu, false), DType::bf16);
  EXPECT_EQ(vae_dtype(DType::bf16, gpu, false), DType::bf16);
  EXPECT_EQ(vae_dtype(DType::f32, gpu, false), DType::f32);
  EXPECT_EQ(vae_dtype(DType::bf16, gpu, true), DType::f32);
}

TEST(VaeTiles, AreThoseOfDiffusers) {
  const SafetensorsFile file("tests/data/vae_tiles.safetensors");
  const auto network = AutoencoderKL::from_safetensors(kModel);
  // Rounding errors of f32 over the network's layers, as in the parity cases.
  EXPECT_LT(distance(moments_in_tiles(network, file.tensor("image").to(DType::f32), 64), file.tensor("moments")), 1e-5);
  const Tensor latents = file.tensor("latents") * AutoencoderKL::scale;
  EXPECT_LT(distance(decode_in_tiles(network, latents, 64), file.tensor("decoded")), 1e-5);
  EXPECT_GT(distance(network.decode(latents), file.tensor("decoded")), 1e-3);  // norms see less in a tile
}

TEST(VaeTiles, OneThatHoldsAllIsTheWhole) {
  const auto network = AutoencoderKL::from_safetensors(kModel);
  Generator generator(1);
  const Tensor latents = Tensor::randn({1, 4, 9, 7}, generator);
  EXPECT_EQ(decode_in_tiles(network, latents, 96).to_host<float>(), network.decode(latents).to_host<float>());
  EXPECT_NE(error_of([&] { decode_in_tiles(network, latents, 72); }).find("in multiples of 32 pixels, got 72"),
            std::string::npos);
}

TEST(Vae, Takes16BitsWhereTheyWillDo) {
  Generator generator(1);
  const Tensor picture = Tensor::rand({1, 3, 40, 32}, generator) * 2 - 1;
  const VAE exact(weights(), DType::f32, Device::cpu());
  for (DType dtype : {DType::f16, DType::bf16}) {
    const VAE vae(weights(), dtype, Device::cpu());
    EXPECT_EQ(said([&] {
                const double unit = dtype == DType::f16 ? 0x1p-11 : 0x1p-8;
                EXPECT_LT(distance(vae.encode(picture), exact.encode(picture)), 10 * unit) << dtype;
                EXPECT_LT(distance(vae.decode(exact.encode(picture)), exact.decode(exact.encode(picture))), 10 * unit)
                    << dtype;
              }),
              "");
    EXPECT_EQ(vae.dtype(), dtype);
  }
}

// The values between the decoder's layers pass f16's 65504, the picture does not.
std::shared_ptr<WeightMap> huge_weights() {
  const auto source = weights();
  for (const char* name : {"decoder.conv_in.weight", "encoder.conv_in.weight"}) {
    Tensor& weight = source->tensors.at(name);
    weight = weight * 1e5f;
  }
  return source;
}

TEST(Vae, GoesOnInF32WhereF16Overflows) {
  Generator generator(1);
  const Tensor picture = Tensor::rand({1, 3, 32, 32}, generator) * 2 - 1, noise = Tensor::zeros({1, 4, 4, 4});
  const Tensor latents = Tensor::randn({1, 4, 4, 4}, generator);
  const VAE exact(huge_weights(), DType::f32, Device::cpu());
  const std::string line = "VAE: values in f16 are not finite; from now on it computes in f32\n";
  {
    const VAE vae(huge_weights(), DType::f16, Device::cpu());
    Tensor decoded;
    EXPECT_EQ(said([&] { decoded = vae.decode(latents); }), line);
    EXPECT_EQ(vae.dtype(), DType::f32);
    EXPECT_EQ(decoded.to_host<float>(), exact.decode(latents).to_host<float>());
    EXPECT_EQ(said([&] { vae.encode(picture, noise); }), "");
  }
  const VAE vae(huge_weights(), DType::f16, Device::cpu());
  Tensor encoded;
  EXPECT_EQ(said([&] { encoded = vae.encode(picture, noise); }), line);
  EXPECT_EQ(encoded.to_host<float>(), exact.encode(picture, noise).to_host<float>());
}

TEST(Vae, DoesNotBlameItselfForWhatItIsGiven) {
  const VAE vae(weights(), DType::f16, Device::cpu());
  const Tensor broken = Tensor::full({1, 4, 2, 2}, std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(said([&] { vae.decode(broken); }), "");
  EXPECT_EQ(vae.dtype(), DType::f16);
}

TEST(Vae, SaysWhatItExpects) {
  const VAE vae = VAE::from_safetensors(kModel);
  EXPECT_NE(error_of([&] {
              vae.encode(Tensor::zeros({3, 16, 16}));
            }).find("expected pictures [N, 3, H, W]"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              vae.decode(Tensor::zeros({1, 3, 4, 4}));
            }).find("expected latents [N, 4, H, W]"),
            std::string::npos);
}

}  // namespace
}  // namespace eri
