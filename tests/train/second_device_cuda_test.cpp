// Nothing takes the first GPU for granted. Skipped where there are no two.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <thread>

#include "eri/train/trainer.h"
#include "flame/device/graph.h"
#include "flame/ops/conv.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "tests/io/files.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

using flame::Device;

class SecondDevice : public testing::Test {
 protected:
  static void SetUpTestSuite() { ::setenv("ERI_PLAN_CACHE", "off", 0); }
  void SetUp() override {
    if (flame::cuda_device_count() < 2) GTEST_SKIP() << "there are no two GPUs on this machine";
  }
};

// Kernels of ours, of cuBLASLt and of cuDNN.
std::vector<float> result_on(Device device) {
  flame::Generator generator(3);
  const auto draw = [&](const flame::Shape& shape) { return Tensor::randn(shape, generator).to(device); };
  const Tensor a = draw({64, 96}), b = draw({96, 32}), x = draw({2, 16, 16, 8}), w = draw({24, 3, 3, 8});
  const Tensor convolved = flame::conv2d(x, w, {}, 1, 1);
  return flame::concat({flame::silu(a.matmul(b)).view({64 * 32}), convolved.view({convolved.numel()})}, 0)
      .to_host<float>();
}

void expect_near(const std::vector<float>& got, const std::vector<float>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-4 * (1 + std::fabs(expected[i]))) << i;
}

TEST_F(SecondDevice, ComputesInTurnAndInThreads) {
  const std::vector<float> expected = result_on(Device::cpu());
  for (int index : {1, 0, 1}) expect_near(result_on(Device::cuda(index)), expected);
  std::vector<std::thread> threads;
  for (int index : {1, 0}) threads.emplace_back([&, index] { expect_near(result_on(Device::cuda(index)), expected); });
  for (std::thread& thread : threads) thread.join();
}

TEST_F(SecondDevice, RunsCapturedGraphs) {
  const Device device = Device::cuda(1);
  const Tensor a = Tensor::full({32, 32}, 2, flame::DType::f32, device),
               sum = Tensor::zeros(a.shape(), a.dtype(), device);
  const auto work = [&] { flame::accumulate(sum, a.matmul(a)); };
  const flame::ArenaScope arena(device);
  work();
  const flame::CapturedGraph graph(device, work);
  result_on(Device::cuda(0));  // makes the other device current
  graph();
  EXPECT_EQ(sum.to_host<float>(), std::vector<float>(32 * 32, 2 * 32 * 4));
}

TEST_F(SecondDevice, TrainsAndLeavesTheFirstAlone) {
  const flame::testing::TemporaryFolder folder;
  const auto losses_on = [&](const std::string& device) {
    TrainConfig config = tiny_run(folder.path());
    config.deterministic = true;
    config.device = device;
    Trainer trainer(config);
    std::vector<float> losses;
    for (int i = 0; i < 5; ++i) losses.push_back(static_cast<float>(trainer.step().loss));
    trainer.save_state(folder / "state");
    return losses;
  };
  const std::vector<float> expected = losses_on("cuda:0");
  const flame::MemoryUse before = flame::memory_use(Device::cuda(0));
  flame::reset_peak(Device::cuda(0));
  expect_near(losses_on("cuda:1"), expected);
  const flame::MemoryUse after = flame::memory_use(Device::cuda(0));
  EXPECT_EQ(after.current, before.current);
  EXPECT_EQ(after.peak, before.current);
}

}  // namespace
}  // namespace eri
