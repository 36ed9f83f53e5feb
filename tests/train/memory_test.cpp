// Training holds what it held: nothing leaks, step by step or run by run.
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
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

// The process's own memory, without pages of files.
double resident() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:")) return 1024 * std::stod(line.substr(8));
  return std::numeric_limits<double>::quiet_NaN();
}

// What is held and not merely kept to be used again: how much is kept depends on which thread came first.
struct Held {
  size_t tensors, malloced;
  double resident;
};
Held held() {
  flame::release_cache(flame::Device::cpu());
  ::malloc_trim(0);
  const struct mallinfo2 all = ::mallinfo2();
  return {flame::memory_use(flame::Device::cpu()).current, all.uordblks + all.hblkhd, resident()};
}

void expect_no_more(const Held& now, const Held& before) {
  constexpr size_t rounding = 1024;  // malloc gives a few bytes more where what is left over is too small for a chunk
  EXPECT_EQ(now.tensors, before.tensors);
  EXPECT_LT(now.malloced, before.malloced + rounding);
  EXPECT_LT(now.resident, before.resident * 1.01);
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

// glibc keeps freed memory for each thread and counts it as used. Told not to, it can be asked what leaked, to the
// byte.
int main(int argc, char** argv) {
  if (!std::getenv("GLIBC_TUNABLES")) {
    ::setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1", 1);
    ::execv("/proc/self/exe", argv);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
