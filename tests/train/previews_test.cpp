// Pictures drawn while a LoRA trains: they are those that sampling draws, and training does not know of them.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "eri/sampling/sdxl_sampler.h"
#include "eri/train/trainer.h"
#include "flame/io/safetensors.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "tests/io/files.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::testing::error_of;
using flame::testing::names_in;
using flame::testing::TemporaryFolder;
using flame::testing::write_file;

constexpr const char* model = "models/eri-tiny.safetensors";

TrainConfig run_into(const fs::path& output) {
  TrainConfig config = tiny_run(output);
  config.learning_rate = 4e-3;
  config.seed = 3;
  return config;
}

TrainConfig with_previews(TrainConfig config, const fs::path& prompts) {
  config.sample_prompts = prompts;
  config.sample_every_n_steps = 2;
  config.sample_at_first = true;
  return config;
}

// Loss and gradient's norm of each step, as a run logged them.
std::vector<std::pair<double, double>> logged(const TrainConfig& config) {
  std::vector<std::pair<double, double>> steps;
  std::ifstream in(fs::path(config.output_dir) / "lora-log.jsonl");
  for (std::string line; std::getline(in, line);) {
    const auto step = nlohmann::json::parse(line);
    steps.emplace_back(step.at("loss"), step.at("grad_norm"));
  }
  return steps;
}

std::vector<float> trained(const TrainConfig& config) {
  Trainer trainer(config);
  trainer.run(false);
  return trainer.parameters().values().to_host<float>();
}

// The mean difference of two pictures' values.
double apart(const flame::Image& a, const flame::Image& b) {
  return flame::mean(flame::abs(flame::to_tensor(a) - flame::to_tensor(b))).item();
}

TEST(Previews, LeaveTrainingAsItIs) {
  const TemporaryFolder folder;
  write_file(folder / "prompts.txt", "blueprint of a cat --s 3\nblueprint of a dog --n red --w 96 --d 9 --s 2 --l 1\n");
  const TrainConfig plain = run_into(folder / "plain");
  const TrainConfig drawing = with_previews(run_into(folder / "drawing"), folder / "prompts.txt");
  EXPECT_EQ(trained(drawing), trained(plain));
  EXPECT_EQ(logged(drawing).size(), 4u);
  EXPECT_EQ(logged(drawing), logged(plain));
  EXPECT_FALSE(fs::exists(folder / "plain" / "sample"));

  std::vector<std::string> expected;
  for (const char* step : {"000000", "000002", "000004"})
    for (const char* picture : {"_00_3.png", "_01_9.png"}) expected.push_back(std::string("lora_") + step + picture);
  std::vector<std::string> names = names_in(folder / "drawing" / "sample");
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, expected);
  const flame::Image second = flame::decode_image(folder / "drawing" / "sample" / "lora_000004_01_9.png");
  EXPECT_EQ(second.width(), 96);
  EXPECT_EQ(second.height(), 128);
  EXPECT_NE(second, flame::decode_image(folder / "drawing" / "sample" / "lora_000000_01_9.png")) << "it has learned";
}

// Where text encoders train, prompts are encoded anew for each drawing.
TEST(Previews, ReadPromptsAsTextEncodersDoByThen) {
  const TemporaryFolder folder;
  write_file(folder / "prompts.txt", "blueprint of a cat --s 3\n");
  TrainConfig plain = run_into(folder / "plain");
  plain.text_encoder_lr = {4e-3};
  plain.unet_lr = 0;
  TrainConfig drawing = with_previews(plain, folder / "prompts.txt");
  drawing.output_dir = folder / "drawing";
  EXPECT_EQ(trained(drawing), trained(plain));
  const auto drawn = [&](const char* name) { return flame::decode_image(folder / "drawing" / "sample" / name); };
  EXPECT_NE(drawn("lora_000000_00_3.png"), drawn("lora_000002_00_3.png"));
  EXPECT_NE(drawn("lora_000002_00_3.png"), drawn("lora_000004_00_3.png"));

  SDXLSampler sampler(model);
  SampleRequest cat{.prompt = "blueprint of a cat", .steps = 3};
  cat.options = {.seed = 3, .cfg = 7.5, .width = 128, .height = 128, .sampler = "euler", .scheduler = "normal"};
  const flame::Image before = sampler.sample(cat);
  sampler.add_lora(folder / "drawing" / "lora.safetensors");
  const flame::Image after = sampler.sample(cat), last = drawn("lora_000004_00_3.png");
  EXPECT_LT(apart(last, after), 0.02 * apart(last, before));  // files are f16
}

// Before the first step a LoRA changes nothing.
TEST(Previews, AreThePicturesThatSamplingDraws) {
  const TemporaryFolder folder;
  write_file(folder / "prompts.txt",
             "blueprint of a cat --n red --s 4 --l 3\nblueprint of a dog --s 3 --l 1 --ss heun\n");
  TrainConfig config = with_previews(run_into(folder / "run"), folder / "prompts.txt");
  config.max_train_steps = 1;
  config.sample_sampler = "k_euler_a";
  config.sample_scheduler = "karras";
  Trainer(config).run(false);
  SDXLSampler sampler(model);
  SampleRequest cat{.prompt = "blueprint of a cat", .steps = 4};
  cat.options = {.negative_prompt = "red",
                 .seed = 3,
                 .cfg = 3,
                 .width = 128,
                 .height = 128,
                 .sampler = "euler_ancestral",
                 .scheduler = "karras"};
  EXPECT_EQ(flame::decode_image(folder / "run" / "sample" / "lora_000000_00_3.png"), sampler.sample(cat));
  const std::string bytes = flame::testing::read_file(folder / "run" / "sample" / "lora_000000_00_3.png");
  EXPECT_NE(bytes.find("Steps: 4, Sampler: Euler a, Schedule type: Karras, CFG scale: 3, Seed: 3, Size: 128x128"),
            bytes.npos);
  SampleRequest dog{.prompt = "blueprint of a dog", .steps = 3};
  dog.options = {.seed = 4, .cfg = 1, .width = 128, .height = 128, .sampler = "heun", .scheduler = "karras"};
  EXPECT_EQ(flame::decode_image(folder / "run" / "sample" / "lora_000000_01_4.png"), sampler.sample(dog));
}

TEST(Previews, MistakesAreFoundBeforeTraining) {
  const TemporaryFolder folder;
  write_file(folder / "prompts.txt", "a cat\na dog --q 3\n");
  write_file(folder / "odd.txt", "a cat --w 104\n");
  const auto expect = [&](const TrainConfig& config, const std::vector<std::string>& parts) {
    const std::string message = error_of([&] { Trainer trainer(config); });
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), message.npos) << part << " is not in: " << message;
  };
  const TrainConfig config = run_into(folder / "run");
  expect(with_previews(config, folder / "prompts.txt"), {"prompts.txt, line 2", "--q"});
  expect(with_previews(config, folder / "nowhere.txt"), {"nowhere.txt"});
  expect(with_previews(config, folder / "odd.txt"), {"odd.txt", "a cat", "multiples of", "104"});
  expect(with_previews(config, ""), {"sample_prompts: missing"});
  TrainConfig other = config;
  other.sample_sampler = "pndm";
  other.sample_scheduler = "linear";
  expect(other, {"sample_sampler: there is no sampler 'pndm'", "dpmpp_2m", "sample_scheduler: ", "sgm_uniform"});
  TrainConfig never = config;
  never.sample_prompts = folder / "odd.txt";
  expect(never, {"sample_every_n_steps", "sample_at_first"});
  write_file(folder / "run.toml", "sample_every_n_step = 5\n");
  TrainConfig read;
  const std::string message = error_of([&] { read_toml(folder / "run.toml", read); });
  EXPECT_NE(message.find("did you mean 'sample_every_n_steps'"), message.npos) << message;
}

// A run goes on where pictures cannot be written.
TEST(Previews, AreNotWorthARun) {
  const TemporaryFolder folder;
  write_file(folder / "prompts.txt", "a cat --s 1\n");
  TrainConfig config = with_previews(run_into(folder / "run"), folder / "prompts.txt");
  fs::create_directories(folder / "run");
  write_file(folder / "run" / "sample", "a file where a folder should be");
  Trainer trainer(config);
  EXPECT_NO_THROW(trainer.run(false));
  EXPECT_TRUE(fs::exists(folder / "run" / "lora.safetensors"));
}

}  // namespace
}  // namespace eri
