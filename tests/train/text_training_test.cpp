// LoRA in the text encoders, which then run within each step.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "eri/lora/verify.h"
#include "eri/train/trainer.h"
#include "flame/io/safetensors.h"
#include "tests/io/files.h"
#include "tests/io/pictures.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::testing::error_of;
using flame::testing::TemporaryFolder;
using flame::testing::write_file;

TrainConfig text_run(const fs::path& output, std::vector<double> text_encoder_lr) {
  TrainConfig config = tiny_run(output);
  config.learning_rate = 4e-3;
  config.text_encoder_lr = std::move(text_encoder_lr);
  config.train_batch_size = 2;
  return config;
}

// Modules of each part that a saved LoRA has, and in how many of them `up` has left zero.
struct Count {
  int64_t modules = 0, moved = 0;
};
std::map<std::string, Count> counts(const Trainer& trainer, const fs::path& file) {
  trainer.save_lora(file);
  const flame::SafetensorsFile lora(file);
  std::map<std::string, Count> result;
  for (const auto& [name, entry] : lora.entries()) {
    if (!name.ends_with(".lora_up.weight")) continue;
    Count& count = result[name.substr(0, name.find('_', 5))];
    ++count.modules;
    const std::vector<float> values = lora.tensor(name).to(flame::DType::f32).to_host<float>();
    count.moved += std::any_of(values.begin(), values.end(), [](float value) { return value != 0; });
  }
  return result;
}

TEST(TextTraining, MovesEveryLayerThatTheUNetReads) {
  const TemporaryFolder folder;
  Trainer trainer(text_run(folder.path(), {1e-3}));
  trainer.step();
  auto all = counts(trainer, folder / "all.safetensors");
  EXPECT_EQ(all.size(), 3u);
  EXPECT_EQ(all["lora_unet"].modules, 192);
  EXPECT_EQ(all["lora_unet"].moved, 192);
  EXPECT_EQ(all["lora_te1"].modules, 18);
  EXPECT_EQ(all["lora_te1"].moved, 12);  // what CLIP-L's last layer gives is not used
  EXPECT_EQ(all["lora_te2"].modules, 18);
  EXPECT_EQ(all["lora_te2"].moved, 18);  // the pooled text comes through the last one
  EXPECT_TRUE(verify_lora(folder / "all.safetensors", trainer.family().trained_targets()).complaints.empty());
}

TEST(TextTraining, TrainsOneEncoderAlone) {
  const TemporaryFolder folder;
  Trainer clip_l(text_run(folder.path(), {1e-3, 0})), clip_g(text_run(folder.path(), {0, 1e-3}));
  clip_l.step();
  clip_g.step();
  auto with_l = counts(clip_l, folder / "l.safetensors"), with_g = counts(clip_g, folder / "g.safetensors");
  EXPECT_EQ(with_l["lora_te1"].moved, 12);
  EXPECT_FALSE(with_l.contains("lora_te2"));
  EXPECT_EQ(with_g["lora_te2"].moved, 18);
  EXPECT_FALSE(with_g.contains("lora_te1"));
}

TEST(TextTraining, LearnsWithoutTheUNet) {
  const TemporaryFolder folder;
  TrainConfig config = text_run(folder.path(), {2e-3});
  config.unet_lr = 0;
  config.train_batch_size = 4;
  config.min_timestep = 500, config.max_timestep = 501;  // losses that can be compared
  Trainer trainer(config);
  std::vector<double> losses;
  for (int i = 0; i < 36; ++i) losses.push_back(trainer.step().loss);
  auto all = counts(trainer, folder / "text.safetensors");
  EXPECT_FALSE(all.contains("lora_unet"));
  const double first = std::accumulate(losses.begin(), losses.begin() + 6, 0.0);
  const double last = std::accumulate(losses.end() - 6, losses.end(), 0.0);
  EXPECT_LT(last, 0.8 * first);
}

// A new LoRA changes nothing: the first step loses what it does with captions that are encoded before.
void expect_begins_as_without(TrainConfig config) {
  config.text_encoder_lr.clear();
  Trainer cached(config);
  config.text_encoder_lr = {1e-3};
  Trainer trained(config);
  const StepResult expected = cached.step(), got = trained.step();
  EXPECT_NEAR(got.loss, expected.loss, 1e-5 * expected.loss);
  EXPECT_GT(got.grad_norm, expected.grad_norm);
}

TEST(TextTraining, BeginsAsWithCachedCaptions) {
  const TemporaryFolder folder;
  expect_begins_as_without(text_run(folder.path(), {}));
}

TEST(TextTraining, ReadsLongCaptions) {
  const TemporaryFolder folder;
  std::string words;
  for (int i = 0; i < 100; ++i) words += "word " + std::to_string(i) + " ";
  for (const char* name : {"a", "b", "c"}) {
    fs::copy_file(flame::testing::picture("rgb.png"), folder / (std::string(name) + ".png"));
    write_file(folder / (std::string(name) + ".txt"), *name == 'b' ? "a cat" : *name + (" " + words));
  }
  TrainConfig config = text_run(folder / "run", {});
  config.train_data_dir = folder.path();
  config.max_token_length = 225;
  config.train_batch_size = 3;
  expect_begins_as_without(config);
}

TEST(TextTraining, RefusesRatesThatCannotBe) {
  const TemporaryFolder folder;
  const auto complaint = [&](std::vector<double> rates) {
    return error_of([&] { validate(text_run(folder.path(), std::move(rates))); });
  };
  EXPECT_NE(complaint({1, 1, 1}).find("text_encoder_lr: expected one number or two, got 3"), std::string::npos);
  EXPECT_NE(complaint({-1}).find("text_encoder_lr: expected 0 or more, got -1"), std::string::npos);
  TrainConfig nothing = text_run(folder.path(), {0, 0});
  nothing.unet_lr = 0;
  EXPECT_NE(error_of([&] { Trainer trainer(nothing); }).find("no layer of the model is left"), std::string::npos);
  TrainConfig unused = text_run(folder.path(), {1e-3, 1e-3});
  unused.exclude_patterns = "lora_te2_.*";
  EXPECT_NE(error_of([&] { Trainer trainer(unused); }).find("no layer of CLIP-G"), std::string::npos);
  unused.text_encoder_lr = {1e-3, 0};
  EXPECT_NE(error_of([&] { Trainer trainer(unused); }).find("a model that does not train"), std::string::npos);
}

}  // namespace
}  // namespace eri
