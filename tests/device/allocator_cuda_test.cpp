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
