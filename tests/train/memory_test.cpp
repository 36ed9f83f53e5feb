// Training holds what it held: nothing leaks, step by step or run by run.
#include <gtest/gtest.h>

#include "eri/train/trainer.h"
#include "tests/io/files.h"
#include "tests/train/host_memory.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

using flame::testing::TemporaryFolder;

TrainConfig endless_run(const std::filesystem::path& output) {
  TrainConfig config = tiny_run(output);
  config.train_batch_size = 4;
  config.max_train_steps = 1000;
  return config;
}

struct Held {
  size_t tensors;
  HostMemory host;
};
Held held() {
  flame::release_cache(flame::Device::cpu());
  return {flame::memory_use(flame::Device::cpu()).current, HostMemory::now()};
}

void expect_no_more(const Held& now, const Held& before) {
  EXPECT_EQ(now.tensors, before.tensors);
  expect_no_more(now.host, before.host);
}

TEST(Memory, TwoHundredStepsHoldWhatTwentyDid) {
  const TemporaryFolder folder;
  Trainer trainer(endless_run(folder / "run"));
  for (int i = 0; i < 20; ++i) trainer.step();
  const Held before = held();
  for (int i = 20; i < 200; ++i) trainer.step();
  expect_no_more(held(), before);
}

TEST(Memory, TwentySavesAndResumesLeaveNothing) {
  const TemporaryFolder folder;
  Held before = {};
  TrainConfig config = endless_run(folder / "run");
  for (int i = 0; i < 22; ++i) {
    {
      Trainer trainer(config);
      trainer.step();
      trainer.save_lora(folder / "lora.safetensors");
      trainer.save_state(folder / "state");
      EXPECT_EQ(trainer.steps_done(), i + 1);
    }
    config.resume = folder / "state";
    if (i == 1) before = held();  // the libraries, and resuming, have been used once
  }
  expect_no_more(held(), before);
}

}  // namespace
}  // namespace eri

int main(int argc, char** argv) {
  eri::count_every_byte(argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
