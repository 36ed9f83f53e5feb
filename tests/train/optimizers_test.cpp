// Each optimiser that a configuration can name: its arguments, its memory, and a run that is interrupted.
#include "eri/train/optimizers.h"

#include <gtest/gtest.h>

#include "eri/train/memory_estimate.h"
#include "eri/train/trainer.h"
#include "flame/io/safetensors.h"
#include "tests/io/files.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::Tensor;
using flame::testing::TemporaryFolder;

struct Named {
  const char* type;
  const char* args;
  double learning_rate;
};
const std::vector<Named> every = {
    {"AdamW", "betas=0.9,0.99 eps=1e-7", 1e-3},
    {"AdamW8bit", "", 1e-3},
    {"Lion", "weight_decay=0.1", 1e-4},
    {"AdaFactor", "", 1e-3},
    {"AdaFactor", "relative_step=False scale_parameter=False warmup_init=False beta1=0.9", 1e-3},
    {"Prodigy", "decouple=True d_coef=2 use_bias_correction=True safeguard_warmup=True", 1},
    {"AdamWScheduleFree", "warmup_steps=2", 1e-3},
};

TEST(Optimizers, TakeTheArgumentsOfTheirOriginals) {
  const auto prodigy = std::get<flame::ProdigyOptions>(
      choose_optimizer("prodigy", "betas=(0.8,0.95) d_coef=2 safeguard_warmup=True decouple=False beta3=None", 0.01));
  EXPECT_EQ(prodigy.beta1, 0.8);
  EXPECT_EQ(prodigy.beta2, 0.95);
  EXPECT_EQ(prodigy.d_coef, 2);
  EXPECT_EQ(prodigy.weight_decay, 0.01);
  EXPECT_TRUE(prodigy.safeguard_warmup);
  EXPECT_FALSE(prodigy.decouple);
  const auto adafactor =
      std::get<flame::AdafactorOptions>(choose_optimizer("Adafactor", "relative_step=False eps=1e-20,0.1", 0));
  EXPECT_FALSE(adafactor.relative_step);
  EXPECT_EQ(adafactor.eps, 1e-20);
  EXPECT_EQ(adafactor.eps_scale, 0.1);
  EXPECT_EQ(std::get<AdamW8bitOptions>(choose_optimizer("adamw8bit", "weight_decay=0.5", 0.01)).weight_decay, 0.5);
  EXPECT_EQ(
      std::get<flame::ScheduleFreeOptions>(choose_optimizer("AdamWScheduleFree", "warmup_steps=10", 0)).warmup_steps,
      10);
}

TEST(Optimizers, NameWhatIsWrongWithTheirArguments) {
  struct Mistake {
    const char *type, *args, *says;
  };
  for (const auto& [type, args, says] : std::vector<Mistake>{
           {"SGD", "", "AdamWScheduleFree"},
           {"AdamW", "beta=0.9", "did you mean 'betas'"},
           {"AdamW", "betas", "key=value"},
           {"AdamW", "betas=0.9", "two numbers"},
           {"AdamW", "eps=small", "expected a number"},
           {"Lion", "eps=1e-8", "Lion has no 'eps'; it has betas, weight_decay"},
           {"Prodigy", "decouple=1", "True or False"},
           {"AdaFactor", "warmup_init=True relative_step=False", "relative_step"},
           {"AdamWScheduleFree", "warmup_steps=1.5", "whole number"},
       }) {
    try {
      choose_optimizer(type, args, 0.01);
      ADD_FAILURE() << type << " took " << args;
    } catch (const flame::Error& error) {
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  }
}

TEST(Optimizers, HoldWhatTheEstimateSays) {
  constexpr int64_t rank = 16, in = 640, out = 1280;
  for (const auto& [type, args, learning_rate] : every) {
    const OptimizerChoice choice = choose_optimizer(type, args, 0.01);
    const auto optimizer = make_optimizer(
        choice, flame::ParameterPack({{"down", Tensor::ones({rank, in})}, {"up", Tensor::ones({out, rank})}}));
    const int64_t numbers =
        optimizer->save().contains("numbers") ? static_cast<int64_t>(optimizer->save().at("numbers").bytes()) : 0;
    EXPECT_EQ(optimizer->state_bytes(), state_bytes(choice, rank, in, out) + numbers) << type << " " << args;
  }
  const auto estimate = [](const char* type) {
    return estimate_memory({.unet = {}, .rank = 16, .optimizer = choose_optimizer(type, "", 0)}).optimizer;
  };
  EXPECT_EQ(2 * estimate("Lion"), estimate("AdamW"));
  EXPECT_LT(estimate("AdamW8bit"), estimate("AdamW") * 27 / 100);
  EXPECT_LT(estimate("AdaFactor"), estimate("AdamW") / 10);
}

TrainConfig short_run(const fs::path& output, const Named& named) {
  TrainConfig config;
  config.device = "cpu";
  config.pretrained_model_name_or_path = "models/eri-tiny.safetensors";
  config.train_data_dir = "tests/data/plain";
  config.resolution = {64, 64};
  config.output_dir = output;
  config.network_dim = config.network_alpha = 4;
  config.optimizer_type = named.type;
  config.optimizer_args = named.args;
  config.learning_rate = named.learning_rate;
  config.max_train_steps = 6;
  return config;
}

std::string data_of(const fs::path& file) {
  const flame::SafetensorsFile lora(file);
  return {reinterpret_cast<const char*>(lora.data()), lora.data_bytes()};
}

TEST(Optimizers, GoOnBitForBitInARun) {
  for (const Named& named : every) {
    SCOPED_TRACE(named.type);
    const TemporaryFolder folder;
    Trainer whole(short_run(folder / "whole", named));
    for (int i = 0; i < 3; ++i) whole.step();
    whole.save_state(folder / "state");
    whole.save_lora(folder / "three.safetensors");
    for (int i = 3; i < 6; ++i) whole.step();
    TrainConfig config = short_run(folder / "parts", named);
    config.resume = folder / "state";
    Trainer second(config);
    second.save_lora(folder / "three_again.safetensors");
    EXPECT_EQ(data_of(folder / "three_again.safetensors"), data_of(folder / "three.safetensors"));
    for (int i = 3; i < 6; ++i) EXPECT_FALSE(second.step().skipped);
    EXPECT_EQ(second.parameters().values().to_host<float>(), whole.parameters().values().to_host<float>());
  }
}

// What is saved of schedule-free AdamW is the average: after one step with a share of 1, z itself.
TEST(Optimizers, SaveTheAverageOfScheduleFreeAdamW) {
  const TemporaryFolder folder;
  Trainer trainer(short_run(folder / "run", {"AdamWScheduleFree", "", 1e-2}));
  trainer.step();
  trainer.step();
  trainer.save_lora(folder / "lora.safetensors");
  trainer.save_state(folder / "state");
  const RunState state = load_state(folder / "state");
  const flame::SafetensorsFile lora(folder / "lora.safetensors");
  int compared = 0;
  for (const auto& parameter : trainer.parameters().parameters()) {
    const std::vector<float> y = parameter.master.to_host<float>();
    const std::vector<float> z = state.tensors.at("optimizer.z." + parameter.name).to_host<float>();
    const std::vector<float> saved = lora.tensor(parameter.name).to(flame::DType::f32).to_host<float>();
    ASSERT_EQ(saved.size(), y.size());
    for (size_t i = 0; i < y.size(); ++i) {
      const float x = static_cast<float>(y[i] + (z[i] - y[i]) * (1 - 1 / 0.9));
      ASSERT_NEAR(saved[i], x, 1e-3f * std::fabs(x) + 1e-6f) << parameter.name;
      compared += std::fabs(x - y[i]) > 2e-3f * std::fabs(x) + 2e-6f;
    }
  }
  EXPECT_GT(compared, 1000);
}

TEST(Optimizers, RefuseASchedulerWhereTheyChooseTheRate) {
  for (const char* type : {"AdamWScheduleFree", "AdaFactor"}) {
    TrainConfig config = short_run("/tmp", {type, "", 1e-3});
    config.lr_scheduler = "cosine";
    EXPECT_THROW(validate(config), flame::Error);
    config.lr_scheduler = "constant";
    EXPECT_NO_THROW(validate(config));
  }
}

}  // namespace
}  // namespace eri
