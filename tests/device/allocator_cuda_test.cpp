#include <gtest/gtest.h>

#include "flame/core/tensor.h"
#include "flame/device/graph.h"
#include "flame/device/out_of_memory.h"

namespace flame {
namespace {

constexpr size_t MiB = size_t{1} << 20;

class CudaAllocator : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "there is no GPU on this machine";
    release_cache(gpu());
    set_memory_limit(gpu(), use().reserved + 256 * MiB);
  }
  void TearDown() override {
    if (cuda_device_count() > 0) set_memory_limit(gpu(), 0);
  }
  static Device gpu() { return Device::cuda(0); }
  static MemoryUse use() { return memory_use(gpu()); }
};

TEST_F(CudaAllocator, GivesToOneRangeWhatIsFreeInAnother) {
  {
    const ArenaScope arena(gpu());
    allocate(200 * MiB, gpu());
  }
  const size_t before = use().reserved;
  const auto lasting = allocate(200 * MiB, gpu());
  EXPECT_LE(use().reserved, before + 56 * MiB);
  EXPECT_THROW(
      {
        const ArenaScope arena(gpu());
        allocate(100 * MiB, gpu());
      },
      OutOfMemory);
}

TEST_F(CudaAllocator, LeavesToGraphsWhatTheyUse) {
  const Tensor result = Tensor::zeros({64}, DType::f32, gpu());
  const auto work = [&] {
    const Tensor large = Tensor::full({static_cast<int64_t>(200 * MiB / sizeof(float))}, 3, DType::f32, gpu());
    result.copy_from(large.rows(1000, 64));
  };
  const ArenaScope arena(gpu());
  work();
  const CapturedGraph graph(gpu(), work);
  {
    const LastingScope lasting;
    EXPECT_THROW(allocate(200 * MiB, gpu()), OutOfMemory);
  }
  graph();
  EXPECT_EQ(result.to_host<float>(), std::vector<float>(64, 3));
}

// Placed as they come, these blocks need 135 MiB: the gap that two of them leave is too small for the last.
TEST_F(CudaAllocator, PlansWhatRepeatedWorkNeeds) {
  const Tensor result = Tensor::zeros({3}, DType::f32, gpu());
  const auto filled = [](size_t bytes, float value) {
    return Tensor::full({static_cast<int64_t>(bytes / sizeof(float))}, value, DType::f32, gpu());
  };
  const auto show = [&](int64_t place, const Tensor& block) {
    result.rows(place, 1).copy_from(block.rows(block.numel() - 1, 1));
  };
  const auto work = [&] {
    Tensor first = filled(20 * MiB, 1), second = filled(30 * MiB, 2);
    first = Tensor();
    const Tensor third = filled(30 * MiB, 3);
    show(0, second);
    second = Tensor();
    show(1, filled(55 * MiB, 4));
    show(2, third);
  };
  const size_t before = use().reserved;
  RepeatedWork repeated(gpu(), true);
  for (int run = 0; run < 2; ++run) repeated(work);
  EXPECT_GE(use().reserved, before + 135 * MiB);
  for (int run = 0; run < 3; ++run) {
    result.fill(0);
    repeated(work);
    EXPECT_LE(use().reserved, before + 88 * MiB);
    EXPECT_EQ(result.to_host<float>(), (std::vector<float>{2, 4, 3}));
  }
}

TEST_F(CudaAllocator, AFailureLeavesNoTrace) {
  const auto held = allocate(100 * MiB, gpu());
  const MemoryUse before = use();
  for (int i = 0; i < 3; ++i) EXPECT_THROW(allocate(400 * MiB, gpu()), OutOfMemory);
  EXPECT_EQ(use().current, before.current);
  EXPECT_LE(use().reserved, before.reserved);
  // Memory lies behind every address of what is given then.
  const auto count = static_cast<int64_t>(150 * MiB / sizeof(float));
  const Tensor more = Tensor::full({count}, 5, DType::f32, gpu());
  for (const int64_t place : {int64_t{0}, count / 3, count - 1}) EXPECT_EQ(more.rows(place, 1).item(), 5) << place;
}

}  // namespace
}  // namespace flame
