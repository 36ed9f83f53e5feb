#include <gtest/gtest.h>

#include "flame/device/device.h"
#include "flame/optim/adamw8bit_kernels.h"
#include "flame/optim/learning_rate.h"
#include "optimizer_cases.h"

namespace flame::test {
namespace {

class EveryOptimizer : public testing::TestWithParam<OptimizerCase> {};
INSTANTIATE_TEST_SUITE_P(Case, EveryOptimizer, testing::ValuesIn(optimizer_cases()), case_name);

TEST_P(EveryOptimizer, MovesLikeItsReference) { expect_the_reference(GetParam(), Device::cpu()); }
TEST_P(EveryOptimizer, GoesOnBitForBitFromASavedState) { expect_to_go_on_bit_for_bit(GetParam(), Device::cpu()); }
TEST_P(EveryOptimizer, SkipsStepsWithoutAFiniteGradient) { expect_to_skip(GetParam(), Device::cpu()); }
TEST_P(EveryOptimizer, ClipsBeforeTheUpdate) { expect_to_clip(GetParam(), Device::cpu()); }
TEST_P(EveryOptimizer, RoundsTheMastersForTheModel) { expect_a_rounded_copy(GetParam(), Device::cpu()); }

// Large enough that several threads share it.
TEST_P(EveryOptimizer, IsTheSameForAnyNumberOfThreads) {
  const auto train = [&](int count) {
    const int before = threads();
    set_threads(count);
    Generator generator(1);
    const auto optimizer = GetParam().make(
        ParameterPack({{"a", Tensor::randn({300, 130}, generator)}, {"c", Tensor::randn({2, 3, 3, 1500}, generator)}}));
    for (uint32_t step = 0; step < 3; ++step) {
      generator.set_step(step);
      optimizer->pack().gradients().copy_from(Tensor::randn({optimizer->pack().numel()}, generator));
      optimizer->step(1e-2, 1);
    }
    set_threads(before);
    return optimizer->pack().values().to_host<float>();
  };
  const std::vector<float> one = train(1);
  EXPECT_EQ(one, train(2));
  EXPECT_EQ(one, train(3));
}

TEST(AdamW8bit, HasTheMapsOfBitsandbytes) {
  const SafetensorsFile expected(TESTS_DIR "/data/optimizers.safetensors");
  EXPECT_EQ(dynamic_map(true), expected.tensor("map.signed").to_host<float>());
  EXPECT_EQ(dynamic_map(false), expected.tensor("map.unsigned").to_host<float>());
}

TEST(AdamW8bit, TakesAQuarterOfTheMemory) {
  const auto bytes = [](const Optimizer& optimizer) { return optimizer.state_bytes(); };
  const ParameterPack pack({{"a", Tensor::zeros({64, 1024})}});
  EXPECT_EQ(bytes(AdamW(pack, {})), 8 * 65536);
  EXPECT_EQ(bytes(AdamW8bit(pack, {})), 2 * 65536 + 2 * 4 * 256);
}

TEST(Prodigy, WantsOneLearningRate) {
  const auto pack = [](double lr) {
    return ParameterPack(std::vector<ParameterGroup>{{{{"a", Tensor::ones({3})}}}, {{{"b", Tensor::ones({3})}}, lr}});
  };
  EXPECT_THROW(Prodigy(pack(0.5), {}), Error);
  Prodigy frozen(pack(0), {.weight_decay = 0.1});
  frozen.pack().gradients().fill(1);
  for (int step = 0; step < 3; ++step) frozen.step(1);
  EXPECT_EQ(frozen.pack()["b"].master.to_host<float>(), std::vector<float>(3, 1.0f));
  EXPECT_NE(frozen.pack()["a"].master.to_host<float>(), std::vector<float>(3, 1.0f));
}

TEST(Adafactor, RefusesAWarmUpWithoutARelativeStep) {
  EXPECT_THROW(Adafactor(ParameterPack({{"a", Tensor::ones({3})}}), {.relative_step = false, .warmup_init = true}),
               Error);
}

// 7 steps of warm-up, 50 in all, a learning rate of 1e-3.
TEST(LearningRateSchedule, IsThatOfDiffusers) {
  using Kind = LearningRateSchedule::Kind;
  const SafetensorsFile expected(TESTS_DIR "/data/optimizers.safetensors");
  const auto compare = [&](const std::string& name, const LearningRateSchedule& schedule) {
    const std::vector<float> factors = expected.tensor("lr/" + name).to_host<float>();
    ASSERT_EQ(factors.size(), 61u);
    for (size_t step = 0; step < factors.size(); ++step)
      EXPECT_NEAR(schedule.factor(static_cast<int64_t>(step)), factors[step], 1e-7) << name << " at " << step;
  };
  for (const char* name : {"constant", "constant_with_warmup", "linear", "cosine"})
    compare(name, {LearningRateSchedule::parse(name), 7, 50});
  compare("cosine_with_restarts",
          {.kind = Kind::cosine_with_restarts, .warmup_steps = 7, .total_steps = 50, .num_cycles = 3});
  compare("cosine_with_restarts.one", {.kind = Kind::cosine_with_restarts, .warmup_steps = 7, .total_steps = 50});
  compare("polynomial",
          {.kind = Kind::polynomial, .warmup_steps = 7, .total_steps = 50, .power = 2, .final_factor = 1e-4});
  compare("polynomial.line", {.kind = Kind::polynomial, .warmup_steps = 7, .total_steps = 50, .final_factor = 1e-4});
}

}  // namespace
}  // namespace flame::test
