#include <gtest/gtest.h>

#include "flame/device/graph.h"
#include "optimizer_cases.h"

namespace flame::test {
namespace {

class EveryOptimizerOnCuda : public testing::TestWithParam<OptimizerCase> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  }
};
INSTANTIATE_TEST_SUITE_P(Case, EveryOptimizerOnCuda, testing::ValuesIn(optimizer_cases()), case_name);

TEST_P(EveryOptimizerOnCuda, MovesLikeItsReference) { expect_the_reference(GetParam(), Device::cuda()); }
TEST_P(EveryOptimizerOnCuda, GoesOnBitForBitFromASavedState) {
  expect_to_go_on_bit_for_bit(GetParam(), Device::cuda());
}
TEST_P(EveryOptimizerOnCuda, SkipsStepsWithoutAFiniteGradient) { expect_to_skip(GetParam(), Device::cuda()); }
TEST_P(EveryOptimizerOnCuda, ClipsBeforeTheUpdate) { expect_to_clip(GetParam(), Device::cuda()); }
TEST_P(EveryOptimizerOnCuda, RoundsTheMastersForTheModel) { expect_a_rounded_copy(GetParam(), Device::cuda()); }

// The rate and the count of steps are read when the graph runs, not when it was captured.
TEST_P(EveryOptimizerOnCuda, MovesTheSameInACapturedGraph) {
  const Device device = Device::cuda();
  OptimizerRun plain(GetParam(), device, DType::bf16), captured(GetParam(), device, DType::bf16);
  const Tensor rate = Tensor::zeros({}, DType::f32, device);
  std::optional<CapturedGraph> graph;
  for (int64_t step = 1; step <= 6; ++step) {
    plain.set_gradients(step);
    captured.set_gradients(step);
    if (step == 4) plain.pack().gradients().fill(NAN), captured.pack().gradients().fill(NAN);
    const double learning_rate = 0x1p-7 / static_cast<double>(step);
    rate.fill(learning_rate);
    plain.optimizer().step(static_cast<double>(static_cast<float>(learning_rate)), 1);
    if (step == 1) {
      captured.optimizer().step_on_device(rate, 1);
      continue;
    }
    if (!graph) {
      const ArenaScope arena(device);
      graph.emplace(device, [&] { captured.optimizer().step_on_device(rate, 1); });
    }
    (*graph)();
  }
  EXPECT_EQ(captured.optimizer().steps(), 5);
  EXPECT_EQ(captured.optimizer().skipped(), 1);
  EXPECT_EQ(captured.values(), plain.values());
}

// Sizes of a LoRA: many rows, few columns, and the other way round; compared with the CPU.
TEST_P(EveryOptimizerOnCuda, MovesALoraLikeTheCpu) {
  const auto train = [&](Device device) {
    Generator generator(3);
    const auto random = [&](const Shape& shape) { return Tensor::randn(shape, generator).to(device); };
    const auto optimizer = GetParam().make(ParameterPack({{"down", random({16, 1280})},
                                                          {"up", random({2560, 16})},
                                                          {"conv", random({8, 3, 3, 640})},
                                                          {"conv_up", random({640, 1, 1, 8})},
                                                          {"odd", random({5, 1031})}}));
    for (uint32_t step = 0; step < 5; ++step) {
      Generator gradients(99);
      gradients.set_step(step);
      optimizer->pack().gradients().copy_from(Tensor::randn({optimizer->pack().numel()}, gradients).to(device));
      optimizer->step(1e-2, 1);
    }
    return optimizer->pack().values().to_host<float>();
  };
  const std::vector<float> expected = train(Device::cpu()), got = train(Device::cuda());
  double difference = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  EXPECT_LE(std::sqrt(difference / size), GetParam().large ? 1e-4 : 2e-6);
}

}  // namespace
}  // namespace flame::test
