// Training on a GPU, in every precision, next to the CPU. Skipped where there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "eri/train/trainer.h"
#include "tests/io/files.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

using flame::testing::TemporaryFolder;

std::vector<StepResult> steps(Trainer& trainer, int count) {
  std::vector<StepResult> results;
  for (int i = 0; i < count; ++i) results.push_back(trainer.step());
  return results;
}

class CudaTraining : public testing::Test {
 protected:
  static void SetUpTestSuite() { ::setenv("ERI_PLAN_CACHE", "off", 0); }  // leaves the user's alone
  void SetUp() override {
    if (flame::cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  }

  // The noise and the pictures are the CPU's, so are the losses and the gradients' norms, as near as the precision lets
  // them be.
  template <class Options>
  void expect_the_way_of_the_cpu(const Options& with) const {
    Trainer cpu(with(run_on("cpu", "no")));
    const std::vector<StepResult> expected = steps(cpu, 4);
    for (const auto& [precision, bound] : {std::pair{"no", 1e-3}, {"bf16", 3e-2}, {"fp16", 1e-2}}) {
      Trainer gpu(with(run_on("cuda", precision)));
      const std::vector<StepResult> got = steps(gpu, 4);
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_FALSE(got[i].skipped) << precision;
        EXPECT_NEAR(got[i].loss, expected[i].loss, bound * expected[i].loss) << precision << ", step " << i + 1;
        EXPECT_NEAR(got[i].grad_norm, expected[i].grad_norm, 5 * bound * expected[i].grad_norm)
            << precision << ", step " << i + 1;
      }
    }
  }

  TrainConfig run_on(const std::string& device, const std::string& precision) const {
    TrainConfig config = tiny_run(folder_.path());
    config.learning_rate = 4e-3;
    config.train_batch_size = 2;
    config.gradient_accumulation_steps = 2;
    config.min_snr_gamma = 5;
    config.max_train_steps = 6;
    config.deterministic = true;
    config.device = device;
    config.mixed_precision = precision;
    return config;
  }

  TemporaryFolder folder_;
};

// The demo's run.
TrainConfig demo_on(const std::string& device, const std::string& precision, const std::filesystem::path& output) {
  TrainConfig config;
  read_toml("examples/blueprint/blueprint.toml", config);
  config.output_dir = output;
  config.device = device;
  config.mixed_precision = precision;
  return config;
}

TEST_F(CudaTraining, LosesWhatTheCpuLosesForTwentySteps) {
  Trainer cpu(demo_on("cpu", "no", folder_.path())), gpu(demo_on("cuda", "no", folder_.path()));
  const std::vector<StepResult> expected = steps(cpu, 20), got = steps(gpu, 20);
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(got[i].loss, expected[i].loss, 1e-4 * expected[i].loss) << "step " << i + 1;
}

// As a training log smooths them.
std::vector<double> smoothed(const std::vector<StepResult>& results) {
  std::vector<double> losses;
  for (const StepResult& result : results)
    losses.push_back(losses.empty() ? result.loss : 0.95 * losses.back() + 0.05 * result.loss);
  return losses;
}

TEST_F(CudaTraining, LearnsInBf16WhatItLearnsInF32) {
  Trainer wide(demo_on("cuda", "no", folder_.path())), narrow(demo_on("cuda", "bf16", folder_.path()));
  const std::vector<double> expected = smoothed(steps(wide, 200)), got = smoothed(steps(narrow, 200));
  EXPECT_LT(expected.back(), 0.5 * expected.front());  // there was something to learn
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(got[i] / expected[i], 1, 0.01) << "step " << i + 1;
}

// Convolutions and other layers in ResBlocks train through layers of their own beside the fused transformers, some of
// which have no LoRA here, or one of another rank.
TrainConfig demo_of_many_kinds_on(const std::string& device, const std::string& precision,
                                  const std::filesystem::path& output) {
  TrainConfig config = demo_on(device, precision, output);
  config.conv_dim = config.conv_alpha = 4;
  config.block_dims = {0, 4, 4, 4, 8, 8, 8, 8, 16, 16, 8, 8, 8, 8, 8, 8, 8, 8, 8, 4, 4, 4, 0};
  config.block_lr_weight = {1, 1, 1, 1, 0, 1, 1, 0.5, 0.5, 0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 1};
  config.exclude_patterns = R"(.*middle_block.*\.attn2\.to_[kv] .*output_blocks\.4.*\.ff\..*)";
  return config;
}

TEST_F(CudaTraining, TrainsConvolutionsAndBlocksApartAsTheCpuDoes) {
  const auto train_on = [&](const char* device, const char* precision) {
    Trainer trainer(demo_of_many_kinds_on(device, precision, folder_.path()));
    return steps(trainer, 20);
  };
  const std::vector<StepResult> expected = train_on("cpu", "no"), wide = train_on("cuda", "no");
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(wide[i].loss, expected[i].loss, 1e-4 * expected[i].loss) << "step " << i + 1;
  const std::vector<double> smooth = smoothed(wide), narrow = smoothed(train_on("cuda", "bf16"));
  for (size_t i = 0; i < smooth.size(); ++i) EXPECT_NEAR(narrow[i] / smooth[i], 1, 0.01) << "step " << i + 1;
}

// The gradients of f32 factors beside weights of 16 bits, in a captured step as in a plain one.
TEST_F(CudaTraining, CapturesConvolutionsToo) {
  for (const char* precision : {"bf16", "fp16"}) {
    std::vector<std::vector<float>> values;
    for (const bool graph : {true, false}) {
      TrainConfig config = demo_of_many_kinds_on("cuda", precision, folder_.path());
      config.deterministic = true;
      config.cuda_graph = graph;
      Trainer trainer(config);
      for (const StepResult& result : steps(trainer, 6)) EXPECT_TRUE(std::isfinite(result.loss)) << precision;
      values.push_back(trainer.parameters().values().to_host<float>());
    }
    EXPECT_EQ(values[0], values[1]) << precision;
  }
}

TEST_F(CudaTraining, GoesTheWayOfTheCpu) {
  expect_the_way_of_the_cpu([](const TrainConfig& config) { return config; });
}

// The encoders are captured with the rest of the step.
TEST_F(CudaTraining, TrainsTextEncodersAsTheCpuDoes) { expect_the_way_of_the_cpu(with_text_encoders); }

TEST_F(CudaTraining, TrainsTextEncodersAlone) {
  expect_the_way_of_the_cpu([](TrainConfig config) {
    config = with_text_encoders(config);
    config.unet_lr = 0;
    config.max_token_length = 150;
    return config;
  });
}

// Offset, multi-resolution, perturbing and bounded noise, Huber's loss and weights: captured as they are on the CPU.
TEST_F(CudaTraining, DrawsTheCpusNoiseOfEveryKind) {
  Trainer cpu(with_all_noise(run_on("cpu", "no")));
  const std::vector<StepResult> expected = steps(cpu, 6);
  TrainConfig config = with_all_noise(run_on("cuda", "no"));
  for (bool graph : {true, false}) {
    config.cuda_graph = graph;
    Trainer gpu(config);
    const std::vector<StepResult> got = steps(gpu, 6);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(got[i].loss, expected[i].loss, 1e-3 * expected[i].loss) << "step " << i + 1;
      EXPECT_NEAR(got[i].grad_norm, expected[i].grad_norm, 5e-3 * expected[i].grad_norm) << "step " << i + 1;
    }
  }
}

TEST_F(CudaTraining, GoesOnBitForBitAfterAResume) {
  for (const char* precision : {"no", "bf16", "fp16"}) {
    for (bool text : {false, true}) {
      TrainConfig config = run_on("cuda", precision);
      if (text) config = with_text_encoders(config);
      Trainer whole(config), first(config);
      const std::vector<StepResult> expected = steps(whole, 6);
      steps(first, 3);
      first.save_state(folder_ / "state");
      config.resume = folder_ / "state";
      Trainer second(config);
      const std::vector<StepResult> rest = steps(second, 3);
      for (size_t i = 0; i < rest.size(); ++i) EXPECT_EQ(rest[i].loss, expected[i + 3].loss) << precision;
      EXPECT_EQ(second.parameters().values().to_host<float>(), whole.parameters().values().to_host<float>())
          << precision;
    }
  }
}

// Previews draw with the model that trains, in the memory of its steps.
TEST_F(CudaTraining, DoesNotKnowOfPreviews) {
  flame::testing::write_file(folder_ / "prompts.txt",
                             "blueprint of a cat --s 5\nblueprint of a dog --s 4 --l 1 --w 64\n");
  for (const std::string name : {"no", "bf16", "bf16 text"}) {
    TrainConfig config = run_on("cuda", name.substr(0, name.find(' ')));
    if (name.ends_with("text")) config = with_text_encoders(config);
    config.output_dir = folder_ / name;
    const auto trained = [&] {
      Trainer trainer(config);
      trainer.run(false);
      return trainer.parameters().values().to_host<float>();
    };
    const std::vector<float> expected = trained();
    config.sample_prompts = folder_ / "prompts.txt";
    config.sample_every_n_steps = 2;
    config.sample_at_first = true;
    EXPECT_EQ(trained(), expected) << name;
    EXPECT_EQ(flame::testing::names_in(folder_ / name / "sample").size(), 8u);
  }
}

TEST_F(CudaTraining, PreviewsTakeNoMemoryThatStays) {
  flame::testing::write_file(folder_ / "prompts.txt", "blueprint of a cat --s 5\n");
  TrainConfig config = run_on("cuda", "bf16");
  const auto held_after = [&](int64_t steps) {
    config.max_train_steps = steps;
    Trainer trainer(config);
    trainer.run(false);
    return flame::memory_use(flame::Device::cuda());
  };
  config.sample_prompts = folder_ / "prompts.txt";
  config.sample_every_n_steps = 4;
  held_after(8);  // libraries' workspaces are made
  const flame::MemoryUse few = held_after(8), many = held_after(40);
  EXPECT_EQ(many.current, few.current);
  EXPECT_EQ(many.reserved, few.reserved);
}

TEST_F(CudaTraining, SaysHowMuchMemoryItMayUse) {
  TrainConfig config = run_on("cuda", "no");
  config.max_vram = driver_gib + 0.05;
  flame::release_cache(flame::Device::cuda());  // what other tests have left would do
  EXPECT_THROW(Trainer trainer(config), flame::Error);
  flame::set_memory_limit(flame::Device::cuda(), 0);
}

}  // namespace
}  // namespace eri
