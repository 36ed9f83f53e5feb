// Training holds what it held: nothing leaks, step by step or run by run.
#include <gtest/gtest.h>
#include <malloc.h>

#include <fstream>
#include <limits>
#include <string>

#include "eri/train/trainer.h"
#include "tests/io/files.h"
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

size_t held() { return flame::memory_use(flame::Device::cpu()).current; }

// The process's own memory, without pages of files. What malloc keeps to be used again, of threads that have ended most
// of all, is not lost: it goes back first.
double resident() {
  ::malloc_trim(0);
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:")) return 1024 * std::stod(line.substr(8));
  return std::numeric_limits<double>::quiet_NaN();
}

TEST(Memory, TwoHundredStepsHoldWhatTwentyDid) {
  const TemporaryFolder folder;
  Trainer trainer(endless_run(folder / "run"));
  for (int i = 0; i < 20; ++i) trainer.step();
  const size_t held_before = held();
  const double resident_before = resident();
  for (int i = 20; i < 200; ++i) trainer.step();
  EXPECT_EQ(held(), held_before);
  EXPECT_LT(resident(), resident_before * 1.01);
}

TEST(Memory, TwentySavesAndResumesLeaveNothing) {
  const TemporaryFolder folder;
  const size_t at_start = held();
  double resident_before = 0;
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
    EXPECT_EQ(held(), at_start) << "after run " << i;
    if (i == 5) resident_before = resident();  // the first ones have settled
  }
  EXPECT_LT(resident(), resident_before * 1.01);
}

}  // namespace
}  // namespace eri
