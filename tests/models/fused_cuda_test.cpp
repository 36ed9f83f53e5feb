#include <gtest/gtest.h>

#include <cmath>

#include "eri/lora/lora.h"
#include "eri/models/synthetic.h"
#include "eri/models/unet.h"
#include "flame/autograd/tape.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "tests/models/small_unet.h"

// Fused transformers against the same UNet layer by layer in f32, whose numbers the parity cases check.
namespace eri {
namespace {

using namespace flame;

struct Inputs {
  Tensor x, t, context, pooled, time_ids, dy;
};

Inputs inputs(Device device, int64_t height = 24, int64_t width = 16, int64_t tokens = 77) {
  Generator generator(7);
  const int64_t n = 2;
  return {.x = Tensor::randn({n, 4, height, width}, generator).to(device),
          .t = Tensor::full({n}, 500, DType::i64, device),
          .context = Tensor::randn({n, tokens, 192}, generator).to(device),
          .pooled = Tensor::randn({n, 128}, generator).to(device),
          .time_ids = Tensor::full({n, 6}, 128, DType::f32, device),
          .dy = Tensor::randn({n, 4, height, width}, generator).to(device)};
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

// Squares of what is wrong and of what is expected, added up.
struct Sums {
  double error = 0, expected = 0;
  void add(const Tensor& got, const Tensor& wanted) {
    const std::vector<float> a = got.to_host<float>(), b = wanted.to_host<float>();
    for (size_t i = 0; i < a.size(); ++i) {
      const double away = static_cast<double>(a[i]) - b[i];
      error += away * away;
      expected += static_cast<double>(b[i]) * b[i];
    }
  }
  double distance() const { return std::sqrt(error / std::max(expected, 1e-30)); }
};

double distance(const Tensor& got, const Tensor& expected) {
  Sums sums;
  sums.add(got, expected);
  return sums.distance();
}

// All gradients as one vector.
double distance(const NamedTensors& got, const NamedTensors& expected) {
  Sums sums;
  for (size_t i = 0; i < got.size(); ++i) sums.add(got[i].second, expected[i].second);
  return sums.distance();
}

TEST(SinusoidsOnCuda, HaveAGpusFrequenciesIfNothingIsSaid) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU here";
  const Tensor one = Tensor::ones({1}).to(Device::cuda(0));
  const auto on = [&](std::optional<Frequencies> which) {
    return Sinusoids(320, Device::cuda(0), which)(one).to_host<float>();
  };
  EXPECT_EQ(on({}), on(Frequencies::as_on_gpu));
  EXPECT_NE(on({}), on(Frequencies::as_on_cpu));
}

class Fused : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU here";
  }

  static UNet make(DType dtype) {
    const SyntheticCheckpoint source(small_unet(), 3, unet_prefix);
    return UNet(Scope(source, dtype, Device::cuda(0)));
  }
  // A LoRA whose both factors are far from zero.
  static LoraNetwork attach(const UNet& unet, int64_t rank, DType compute = DType::f32) {
    const LoraTargets targets = lora_targets(unet, LoraPart::unet);
    return attach(targets, new_lora(targets, {.dim = rank, .alpha = static_cast<double>(rank), .seed = 1}), compute);
  }
  static LoraNetwork attach(const LoraTargets& targets, const LoRA& start, DType compute = DType::f32) {
    LoraNetwork network(targets, start, compute);
    Generator generator(5);
    for (const auto& parameter : network.parameters().parameters())
      ParameterPack::view(network.parameters().values(), parameter)
          .copy_from((Tensor::randn(parameter.value.shape(), generator) * 0.03f).to(Device::cuda(0)));
    network.parameters().refresh();
    return network;
  }
};

// In 16 bits the fused way may be as far from f32 as the layers one by one are, and a tenth more for chance.
constexpr double kAsFar = 1.1;

TEST_F(Fused, IsAsNearToF32AsLayerByLayer) {
  const Inputs in = inputs(Device::cuda(0));
  for (int64_t rank : {4, 16, 32}) {
    const UNet wide = make(DType::f32);
    const LoraNetwork wide_lora = attach(wide, rank);
    const Outcome expected = run(wide, &wide_lora, in);
    for (DType dtype : {DType::bf16, DType::f16}) {
      const UNet plain = make(dtype);
      const LoraNetwork plain_lora = attach(plain, rank, dtype);
      const Outcome layer_by_layer = run(plain, &plain_lora, in);
      UNet fused = make(dtype);
      const LoraNetwork lora = attach(fused, rank);
      fused.fuse();
      const Outcome got = run(fused, &lora, in);
      const double out = distance(got.out, expected.out), plain_out = distance(layer_by_layer.out, expected.out);
      const double gradients = distance(got.gradients, expected.gradients);
      const double plain_gradients = distance(layer_by_layer.gradients, expected.gradients);
      std::cout << dtype << ", rank " << rank << ": out " << out << " (layer by layer " << plain_out << "), gradients "
                << gradients << " (" << plain_gradients << ")\n";
      EXPECT_LT(out, kAsFar * plain_out) << dtype << " rank " << rank;
      EXPECT_LT(gradients, kAsFar * plain_gradients) << dtype << " rank " << rank;
      ASSERT_EQ(got.gradients.size(), expected.gradients.size());
      for (size_t i = 0; i < got.gradients.size(); ++i)  // none is missing, misplaced or of the wrong size
        EXPECT_LT(distance(got.gradients[i].second, expected.gradients[i].second), 0.25) << got.gradients[i].first;
    }
  }
}

// Ranks that leave the adapters' columns at any alignment, and such as need more columns than one tile.
TEST_F(Fused, TakesAnyRank) {
  const Inputs in = inputs(Device::cuda(0));
  for (int64_t rank : {1, 3, 20, 100}) {
    const UNet wide = make(DType::f32);
    const LoraNetwork wide_lora = attach(wide, rank);
    const Outcome expected = run(wide, &wide_lora, in);
    UNet fused = make(DType::bf16);
    const LoraNetwork lora = attach(fused, rank);
    fused.fuse();
    const Outcome got = run(fused, &lora, in);
    EXPECT_LT(distance(got.out, expected.out), 0.1) << "rank " << rank;
    EXPECT_LT(distance(got.gradients, expected.gradients), 0.25) << "rank " << rank;
  }
}

// Pictures of a few tokens, and texts longer than CLIP's.
TEST_F(Fused, TakesAnyNumberOfTokens) {
  for (const auto& [height, width, tokens] : {std::array<int64_t, 3>{8, 8, 77}, {8, 4, 150}, {24, 16, 231}}) {
    const Inputs in = inputs(Device::cuda(0), height, width, tokens);
    const UNet wide = make(DType::f32);
    const LoraNetwork wide_lora = attach(wide, 4);
    const Outcome expected = run(wide, &wide_lora, in);
    UNet fused = make(DType::bf16);
    const LoraNetwork lora = attach(fused, 4);
    fused.fuse();
    const Outcome got = run(fused, &lora, in);
    EXPECT_LT(distance(got.out, expected.out), 0.1) << height << " x " << width << ", text of " << tokens;
    EXPECT_LT(distance(got.gradients, expected.gradients), 0.25) << height << " x " << width << ", text of " << tokens;
  }
}

// Ranks and alphas of their own, and layers without an adapter, among them such as read the text.
TEST_F(Fused, TakesAdaptersThatDifferFromLayerToLayer) {
  const auto uneven = [](const LoraTargets& targets) {
    const LoRA even = new_lora(targets, {.dim = 12, .alpha = 12, .seed = 1});
    LoRA::Modules modules;
    int64_t number = 0;
    for (const auto& [name, module] : even.modules()) {
      const int64_t rank = 1 + 5 * number++ % 12;
      if (number % 4 == 0) continue;
      modules[name] = {module.down.rows(0, rank), narrow(module.up, 1, 0, rank),
                       0.5 * static_cast<double>(number % 5 + 1)};
    }
    return LoRA(std::move(modules));
  };
  const Inputs in = inputs(Device::cuda(0));
  const UNet wide = make(DType::f32);
  const LoraTargets wide_targets = lora_targets(wide, LoraPart::unet);
  const LoraNetwork wide_lora = attach(wide_targets, uneven(wide_targets));
  const Outcome expected = run(wide, &wide_lora, in);
  UNet fused = make(DType::bf16);
  const LoraTargets targets = lora_targets(fused, LoraPart::unet);
  const LoraNetwork lora = attach(targets, uneven(targets));
  fused.fuse();
  const Outcome got = run(fused, &lora, in);
  EXPECT_LT(distance(got.out, expected.out), 0.1);
  ASSERT_EQ(got.gradients.size(), expected.gradients.size());
  for (size_t i = 0; i < got.gradients.size(); ++i)
    EXPECT_LT(distance(got.gradients[i].second, expected.gradients[i].second), 0.25) << got.gradients[i].first;
}

TEST_F(Fused, WithoutAdaptersPredictsTheSame) {
  const Inputs in = inputs(Device::cuda(0));
  const Outcome expected = run(make(DType::f32), nullptr, in), plain = run(make(DType::bf16), nullptr, in);
  UNet fused = make(DType::bf16);
  fused.fuse();
  EXPECT_LT(distance(run(fused, nullptr, in).out, expected.out), kAsFar * distance(plain.out, expected.out));
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

// What trains text encoders: through keys and values, which are one product for all blocks, and through the embedding.
NamedTensors text_gradients(const UNet& unet, const Inputs& in) {
  const Tensor context = in.context.requires_grad(), pooled = in.pooled.requires_grad();
  Tape tape;
  const Tensor out = unet(in.x, in.t, context, pooled, in.time_ids);
  GradientMap gradients;
  tape.backward(out, in.dy.to(out.dtype()), gradients);
  return {{"context", gradients[context].to(Device::cpu())}, {"pooled", gradients[pooled].to(Device::cpu())}};
}

TEST_F(Fused, GivesTheTextItsGradient) {
  set_deterministic(true);
  for (const auto& [rank, tokens] : {std::pair<int64_t, int64_t>{0, 77}, {16, 77}, {3, 152}}) {
    const Inputs in = inputs(Device::cuda(0), 24, 16, tokens);
    LoraNetwork networks[4];  // hold what the adapters refer to
    const auto with_lora = [&, rank = rank](DType dtype, LoraNetwork& network, DType compute) {
      UNet unet = make(dtype);
      if (rank) network = attach(unet, rank, compute);
      return unet;
    };
    const NamedTensors expected = text_gradients(with_lora(DType::f32, networks[0], DType::f32), in);
    const NamedTensors plain = text_gradients(with_lora(DType::bf16, networks[1], DType::bf16), in);
    UNet lean = with_lora(DType::bf16, networks[2], DType::f32),
         block = with_lora(DType::bf16, networks[3], DType::f32);
    lean.fuse();
    block.fuse(MemoryPolicy::block);
    const NamedTensors got = text_gradients(lean, in), again = text_gradients(block, in);
    std::cout << "rank " << rank << ", text of " << tokens << ": " << distance(got, expected) << " (layer by layer "
              << distance(plain, expected) << ")\n";
    EXPECT_LT(distance(got, expected), kAsFar * distance(plain, expected)) << "rank " << rank;
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LT(distance(got[i].second, expected[i].second), 0.25) << got[i].first << ", rank " << rank;
      EXPECT_EQ(distance(again[i].second, got[i].second), 0) << got[i].first << ", rank " << rank;
    }
  }
  set_deterministic(false);
}

TEST_F(Fused, ATextThatIsReadOncePredictsTheSame) {
  const Inputs in = inputs(Device::cuda(0));
  UNet fused = make(DType::bf16);
  const LoraNetwork lora = attach(fused, 16);
  EXPECT_EQ(fused.read_text(in.context).shape(), in.context.shape());
  fused.fuse();
  Inputs read = in;
  read.context = fused.read_text(in.context);
  EXPECT_GT(read.context.dim(2), in.context.dim(2));
  EXPECT_EQ(distance(run(fused, nullptr, read).out, run(fused, nullptr, in).out), 0);
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
  const Outcome expected = run(make(DType::f32), nullptr, in), plain = run(make(DType::bf16), nullptr, in);
  EXPECT_LT(distance(run(fused, &lora, in).out, expected.out), kAsFar * distance(plain.out, expected.out));
}

}  // namespace
}  // namespace eri
