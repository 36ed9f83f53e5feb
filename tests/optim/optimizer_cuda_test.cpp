#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "flame/device/graph.h"
#include "flame/optim/adamw.h"
#include "tests/optim/grad_scaler.h"

namespace flame {
namespace {

class OptimizerOnCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  }
};

// Odd sizes: the last elements make no whole vector.
NamedTensors start(Device device) {
  Generator generator(1);
  return {{"a", Tensor::randn({300, 1301}, generator).to(device)}, {"b", Tensor::randn({7}, generator).to(device)}};
}

AdamW optimizer(Device device, DType compute = DType::f32) {
  return AdamW(ParameterPack(start(device), compute), {.eps = 1e-6, .weight_decay = 0.1});
}

void set_gradients(const AdamW& optimizer, uint32_t step) {
  Generator generator(99);
  generator.set_step(step);
  const Tensor& gradients = optimizer.pack().gradients();
  gradients.copy_from(Tensor::randn(gradients.shape(), generator).to(gradients.device()));
}

std::vector<float> values(const AdamW& optimizer) { return optimizer.pack().values().to_host<float>(); }

void expect_near(const std::vector<float>& got, const std::vector<float>& expected) {
  double squares = 0;
  for (const float value : expected) squares += static_cast<double>(value) * value;
  const double rms = std::sqrt(squares / static_cast<double>(expected.size()));
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_LE(std::fabs(got[i] - expected[i]), 1e-6 * (std::fabs(expected[i]) + rms)) << i;
}

TEST_F(OptimizerOnCuda, MovesLikeTheCpu) {
  AdamW cpu = optimizer(Device::cpu()), cuda = optimizer(Device::cuda());
  for (uint32_t step = 0; step < 5; ++step) {
    set_gradients(cpu, step);
    set_gradients(cuda, step);
    const double max_norm = step % 2 ? 1 : std::numeric_limits<double>::infinity();
    const auto expected = cpu.step(1e-2, max_norm), got = cuda.step(1e-2, max_norm);
    EXPECT_NEAR(got.gradient_norm / expected.gradient_norm, 1, 1e-12);
    EXPECT_FALSE(got.skipped);
  }
  EXPECT_EQ(cuda.steps(), 5);
  expect_near(values(cuda), values(cpu));
}

TEST_F(OptimizerOnCuda, SkipsStepsWithoutAFiniteGradient) {
  AdamW cuda = optimizer(Device::cuda(), DType::bf16);
  const std::vector<float> before = values(cuda);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    set_gradients(cuda, 0);
    cuda.pack().gradients().rows(cuda.pack().numel() - 1, 1).fill(bad);
    EXPECT_TRUE(cuda.step(1e-2, 1).skipped);
    EXPECT_FALSE(std::isfinite(cuda.last_norm().item()));
  }
  EXPECT_EQ(cuda.steps(), 0);
  EXPECT_EQ(cuda.skipped(), 2);
  EXPECT_EQ(values(cuda), before);
  set_gradients(cuda, 0);
  EXPECT_FALSE(cuda.step(1e-2, 1).skipped);
  EXPECT_NE(values(cuda), before);
}

TEST_F(OptimizerOnCuda, RoundsTheMastersForTheModel) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    AdamW cuda = optimizer(Device::cuda(), dtype);
    for (uint32_t step = 0; step < 3; ++step) {
      const Tensor rounded = cuda.pack().values().to(Device::cpu()).to(dtype).to(DType::f32);
      EXPECT_EQ(cuda.pack().compute_copy().to(Device::cpu()).to(DType::f32).to_host<float>(), rounded.to_host<float>());
      set_gradients(cuda, step);
      cuda.step(1e-2, 1);
    }
  }
}

// The rate and the count of steps are read when the graph runs, not when it was captured.
TEST_F(OptimizerOnCuda, MovesTheSameInACapturedGraph) {
  const Device device = Device::cuda();
  AdamW plain = optimizer(device, DType::bf16), captured = optimizer(device, DType::bf16);
  const Tensor rate = Tensor::zeros({}, DType::f32, device);
  std::optional<CapturedGraph> graph;
  for (uint32_t step = 0; step < 6; ++step) {
    set_gradients(plain, step);
    set_gradients(captured, step);
    if (step == 4) plain.pack().gradients().fill(NAN), captured.pack().gradients().fill(NAN);
    const double learning_rate = 0x1p-7 / (step + 1);
    rate.fill(learning_rate);
    plain.step(static_cast<double>(static_cast<float>(learning_rate)), 1);
    if (step == 0) {
      captured.step_on_device(rate, 1);
      continue;
    }
    if (!graph) {
      const ArenaScope arena(device);
      graph.emplace(device, [&] { captured.step_on_device(rate, 1); });
    }
    (*graph)();
  }
  EXPECT_EQ(captured.steps(), 5);
  EXPECT_EQ(captured.skipped(), 1);
  EXPECT_EQ(values(captured), values(plain));
}

TEST_F(OptimizerOnCuda, GoesOnBitForBitFromASavedState) {
  AdamW whole = optimizer(Device::cuda());
  std::map<std::string, Tensor> saved;
  Tensor at_three;
  for (uint32_t step = 0; step < 6; ++step) {
    if (step == 3) saved = whole.save(), at_three = whole.pack().values().clone();
    set_gradients(whole, step);
    whole.step(1e-2, 1);
  }
  AdamW resumed = optimizer(Device::cuda()), on_cpu = optimizer(Device::cpu());
  for (AdamW* other : {&resumed, &on_cpu}) {
    other->load(saved);
    EXPECT_EQ(other->steps(), 3);
    other->pack().values().copy_from(at_three);
    for (uint32_t step = 3; step < 6; ++step) {
      set_gradients(*other, step);
      other->step(1e-2, 1);
    }
  }
  EXPECT_EQ(values(resumed), values(whole));
  expect_near(values(on_cpu), values(whole));
}

TEST_F(OptimizerOnCuda, TakesTheNormWhereNothingIsAligned) {
  Generator generator(5);
  const Tensor x = Tensor::randn({100003}, generator);
  const double expected = gradient_norm(x.rows(1, 100001).clone());
  EXPECT_NEAR(gradient_norm(x.to(Device::cuda()).rows(1, 100001)) / expected, 1, 1e-12);
  EXPECT_EQ(gradient_norm(Tensor::full({3}, 2, DType::f32, Device::cuda())), std::sqrt(12.0));
}

TEST_F(OptimizerOnCuda, ScalesLossesAsPyTorchDoes) {
  const Device device = Device::cuda();
  test::expect_the_scales_of_pytorch(device, [](Optimizer& optimizer) { optimizer.step(1e-3); });
  const Tensor rate = Tensor::full({}, 1e-3, DType::f32, device);
  test::expect_the_scales_of_pytorch(device, [&](Optimizer& optimizer) {
    const ArenaScope arena(device);
    const CapturedGraph graph(device, [&] { optimizer.step_on_device(rate); });
    graph();
  });
}

}  // namespace
}  // namespace flame
