#include <gtest/gtest.h>

#include <cmath>

#include "eri/lora/lora.h"
#include "eri/models/synthetic.h"
#include "eri/models/unet.h"
#include "flame/autograd/tape.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

// Fused transformers against the same UNet layer by layer in f32, whose numbers the parity cases check.
namespace eri {
namespace {

using namespace flame;

// A small UNet with SDXL's levels and heads.
Geometry small() {
  Geometry geometry;
  geometry.name = "small";
  geometry.unet = {.model_channels = 64,
                   .channel_mult = {1, 2, 4},
                   .transformer_depth = {0, 1, 2},
                   .transformer_depth_middle = 2,
                   .context_dim = 192,
                   .adm_in_channels = 1664};
  return geometry;
}

struct Inputs {
  Tensor x, t, context, pooled, time_ids, dy;
};

Inputs inputs(Device device) {
  Generator generator(7);
  const int64_t n = 2;
  return {.x = Tensor::randn({n, 4, 24, 16}, generator).to(device),
          .t = Tensor::full({n}, 500, DType::i64, device),
          .context = Tensor::randn({n, 77, 192}, generator).to(device),
          .pooled = Tensor::randn({n, 128}, generator).to(device),
          .time_ids = Tensor::full({n, 6}, 128, DType::f32, device),
          .dy = Tensor::randn({n, 4, 24, 16}, generator).to(device)};
}

struct Outcome {
  Tensor out;
  NamedTensors gradients;
};

// The prediction, and the gradients of the adapters, in f32 on the CPU.
Outcome run(const UNet& unet, const LoraNetwork* network, const Inputs& in) {
  Tape tape;
  const Tensor out = unet(in.x, in.t, in.context, in.pooled, in.time_ids);
  Outcome outcome{out.detach().to(DType::f32).to(Device::cpu()), {}};
  if (!network) return outcome;
  GradientMap gradients;
  network->parameters().zero_grad();
  network->parameters().bind(gradients);
  tape.backward(out, in.dy.to(out.dtype()), gradients);
  for (const auto& parameter : network->parameters().parameters())
    outcome.gradients.emplace_back(parameter.name, parameter.gradient.to(Device::cpu()));
  return outcome;
}

double distance(const Tensor& got, const Tensor& expected) {
  const std::vector<float> a = got.to_host<float>(), b = expected.to_host<float>();
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(error / std::max(norm, 1e-30));
}

class Fused : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU here";
  }

  static UNet make(DType dtype) {
    const SyntheticCheckpoint source(small(), 3, unet_prefix);
    return UNet(Scope(source, dtype, Device::cuda(0)));
  }
  // A LoRA whose both factors are far from zero.
  static LoraNetwork attach(const UNet& unet, int64_t rank) {
    const LoraTargets targets = lora_targets(unet, LoraPart::unet);
    LoraNetwork network(targets, {.dim = rank, .alpha = 8, .seed = 1});
    Generator generator(5);
    for (const auto& parameter : network.parameters().parameters())
      ParameterPack::view(network.parameters().values(), parameter)
          .copy_from((Tensor::randn(parameter.value.shape(), generator) * 0.1f).to(Device::cuda(0)));
    return network;
  }
};

// bf16 has 8 bits: each of the some hundred roundings on the way adds 2^-9 of its own, in quadrature.
constexpr double kOutBound = 0.02, kGradientBound = 0.04;

TEST_F(Fused, EqualsLayerByLayer) {
  const Inputs in = inputs(Device::cuda(0));
  for (int64_t rank : {4, 16, 32}) {
    const UNet plain = make(DType::f32);
    const LoraNetwork plain_lora = attach(plain, rank);
    const Outcome expected = run(plain, &plain_lora, in);
    for (DType dtype : {DType::bf16, DType::f16}) {
      UNet fused = make(dtype);
      const LoraNetwork lora = attach(fused, rank);
      fused.fuse();
      const Outcome got = run(fused, &lora, in);
      EXPECT_LT(distance(got.out, expected.out), kOutBound) << dtype << " rank " << rank;
      ASSERT_EQ(got.gradients.size(), expected.gradients.size());
      double worst = 0;
      for (size_t i = 0; i < got.gradients.size(); ++i) {
        const double error = distance(got.gradients[i].second, expected.gradients[i].second);
        worst = std::max(worst, error);
        EXPECT_LT(error, kGradientBound) << dtype << " rank " << rank << " " << got.gradients[i].first;
      }
      RecordProperty(text("out_", name(dtype), "_", rank), std::to_string(distance(got.out, expected.out)));
      std::cout << dtype << " rank " << rank << ": out " << distance(got.out, expected.out) << ", worst gradient "
                << worst << "\n";
    }
  }
}

TEST_F(Fused, WithoutAdaptersPredictsTheSame) {
  const Inputs in = inputs(Device::cuda(0));
  const Outcome expected = run(make(DType::f32), nullptr, in);
  UNet fused = make(DType::bf16);
  fused.fuse();
  EXPECT_LT(distance(run(fused, nullptr, in).out, expected.out), kOutBound);
}

TEST_F(Fused, EveryPolicyGivesTheSameBits) {
  set_deterministic(true);
  const Inputs in = inputs(Device::cuda(0));
  UNet fused = make(DType::bf16);
  const LoraNetwork lora = attach(fused, 16);
  fused.fuse();
  const Outcome lean = run(fused, &lora, in);
  size_t kept = SIZE_MAX;
  for (MemoryPolicy policy : {MemoryPolicy::lean, MemoryPolicy::ff, MemoryPolicy::attn_ff, MemoryPolicy::block}) {
    fused.set_memory_policy(policy);
    const Outcome got = run(fused, &lora, in);
    EXPECT_EQ(distance(got.out, lean.out), 0);
    for (size_t i = 0; i < got.gradients.size(); ++i)
      EXPECT_EQ(distance(got.gradients[i].second, lean.gradients[i].second), 0) << got.gradients[i].first;
    Tape tape;
    (void)fused(in.x, in.t, in.context, in.pooled, in.time_ids);
    EXPECT_LE(tape.bytes_kept(), kept) << "policy " << static_cast<int>(policy);
    kept = tape.bytes_kept();
  }
  set_deterministic(false);
}

TEST_F(Fused, TakesChangedAdaptersOverWhenTold) {
  const Inputs in = inputs(Device::cuda(0));
  UNet fused = make(DType::bf16);
  const LoraNetwork lora = attach(fused, 16);
  fused.fuse();
  const Tensor before = run(fused, &lora, in).out;
  lora.parameters().values().copy_from(lora.parameters().values() * 0.0f);
  EXPECT_EQ(distance(run(fused, &lora, in).out, before), 0);
  fused.refresh();
  UNet bare = make(DType::bf16);
  bare.fuse();
  EXPECT_LT(distance(run(fused, &lora, in).out, run(bare, nullptr, in).out), kOutBound);
}

}  // namespace
}  // namespace eri
