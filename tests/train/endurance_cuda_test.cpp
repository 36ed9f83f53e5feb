// Training on a GPU holds what it held, however long a run is and however often one begins and ends. Skipped where
// there is no GPU.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>

#include "eri/train/trainer.h"
#include "flame/device/cuda.h"
#include "tests/io/files.h"
#include "tests/train/host_memory.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

using flame::testing::TemporaryFolder;

// The allocator's count, in bytes.
struct Held {
  size_t current, peak, reserved;
  friend bool operator==(const Held&, const Held&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Held& held) {
    return out << "current " << held.current << ", peak " << held.peak << ", reserved " << held.reserved;
  }
};

Held held() {
  const flame::MemoryUse use = flame::memory_use(flame::Device::cuda());
  return {use.current, use.peak, use.reserved};
}

// MiB of the card that nvidia-smi counts as this process's; where it lists no process, those that are not free.
int64_t on_card() {
  flame::synchronize(flame::Device::cuda());
  int64_t listed = 0;
  const char* const query = "nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits 2>/dev/null";
  if (const std::unique_ptr<FILE, int (*)(FILE*)> answer(::popen(query, "r"), ::pclose); answer) {
    long long pid = 0, mebibytes = 0;
    while (std::fscanf(answer.get(), "%lld, %lld", &pid, &mebibytes) == 2)
      if (pid == ::getpid()) listed += mebibytes;
  }
  if (listed > 0) return listed;
  size_t free = 0, total = 0;
  flame::cuda::check(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>((total - free) >> 20);
}

class Endurance : public testing::Test {
 protected:
  static void SetUpTestSuite() { ::setenv("ERI_PLAN_CACHE", "off", 0); }  // leaves the user's alone
  void SetUp() override {
    if (flame::cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
  }

  TrainConfig run_of(int64_t steps) const {
    TrainConfig config = tiny_run(folder_.path());
    config.max_train_steps = steps;
    config.device = "cuda";
    return config;
  }

  // By then plans are chosen, libraries are warm and the step is captured: nothing more is ever needed.
  static void expect_nothing_grows(const TrainConfig& config) {
    Trainer trainer(config);
    for (int i = 0; i < 3; ++i) trainer.step();
    flame::reset_peak(flame::Device::cuda());
    trainer.step();
    const Held expected = held();
    const int64_t expected_on_card = on_card(), steps = config.max_train_steps;
    HostMemory before = {};
    for (int64_t step = 5; step <= steps; ++step) {
      const StepResult result = trainer.step();
      ASSERT_TRUE(std::isfinite(result.loss)) << "step " << step;
      ASSERT_EQ(held(), expected) << "step " << step;
      if (step % (steps / 10) == 0) {
        ASSERT_EQ(on_card(), expected_on_card) << "step " << step;
      }
      if (step == steps / 10) before = HostMemory::now();
    }
    const HostMemory after = HostMemory::now();
    std::cout << steps << " steps: " << expected << " bytes, " << expected_on_card
              << " MiB of the card; the host's: " << before << ", at the end " << after << std::endl;
    expect_no_more(after, before);
  }

  TemporaryFolder folder_;
};

TEST_F(Endurance, TenThousandStepsHoldWhatThreeDid) { expect_nothing_grows(run_of(10000)); }

// Where every step allocates and frees all that it needs.
TEST_F(Endurance, AThousandPlainStepsHoldWhatThreeDid) {
  TrainConfig config = run_of(1000);
  config.cuda_graph = false;
  expect_nothing_grows(config);
}

TEST_F(Endurance, FiveHundredStepsOfTheFullModelHoldWhatThreeDid) {
  const char* const model = std::getenv("ERI_FULL_MODEL");
  if (!model) GTEST_SKIP() << "ERI_FULL_MODEL names no checkpoint (eri synth sdxl 0 FILE --dtype f16 makes one)";
  TrainConfig config = run_of(500);
  config.pretrained_model_name_or_path = model;
  config.resolution = {1024, 1024};
  config.network_dim = config.network_alpha = 16;
  expect_nothing_grows(config);
}

// Buffers are all given back each time; what the first cycle needed more to choose plans is gone after the second, and
// what the driver and the system keep for the next one has settled after a few.
class Cycles {
 public:
  void end(int cycle) {
    const Held now = held();
    if (cycle == 1) left_ = now.current;
    ASSERT_EQ(now.current, left_) << "after cycle " << cycle;
    if (cycle == 2) settled_ = now;
    if (cycle > 2) {
      ASSERT_EQ(now, settled_) << "after cycle " << cycle;
    }
    if (cycle == 5) on_card_ = on_card(), host_ = HostMemory::now();
  }
  void expect_nothing_left(int cycles) const {
    EXPECT_EQ(on_card(), on_card_);
    const HostMemory after = HostMemory::now();
    std::cout << cycles << " cycles: " << settled_ << " bytes, " << on_card_
              << " MiB of the card; the host's: " << host_ << ", at the end " << after << std::endl;
    expect_no_more(after, host_);
  }

 private:
  size_t left_ = 0;
  Held settled_ = {};
  int64_t on_card_ = 0;
  HostMemory host_ = {};
};

TEST_F(Endurance, FiftyTrainersLeaveNothing) {
  constexpr int count = 50;
  Cycles cycles;
  for (int cycle = 1; cycle <= count; ++cycle) {
    {
      Trainer trainer(run_of(count));
      for (int i = 0; i < 4; ++i) trainer.step();  // the last two as graphs
    }
    ASSERT_NO_FATAL_FAILURE(cycles.end(cycle));
  }
  cycles.expect_nothing_left(count);
}

TEST_F(Endurance, FiftySavesAndResumesLeaveNothing) {
  constexpr int count = 50;
  Cycles cycles;
  TrainConfig config = run_of(count);
  for (int cycle = 1; cycle <= count; ++cycle) {
    {
      Trainer trainer(config);
      trainer.step();
      trainer.save_lora(folder_ / "lora.safetensors");
      trainer.save_state(folder_ / "state");
      EXPECT_EQ(trainer.steps_done(), cycle);
    }
    config.resume = folder_ / "state";
    ASSERT_NO_FATAL_FAILURE(cycles.end(cycle));
  }
  cycles.expect_nothing_left(count);
}

}  // namespace
}  // namespace eri

int main(int argc, char** argv) {
  eri::count_every_byte(argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
