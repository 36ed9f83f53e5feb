#include <gtest/gtest.h>
#include <omp.h>

#include <thread>

#include "flame/core/error.h"
#include "flame/device/device.h"

namespace flame {
namespace {

const Device cpu = Device::cpu();

MemoryUse use() { return memory_use(cpu); }

TEST(Allocator, BytesReturnToTheLevel) {
  const size_t before = use().current;
  {
    const auto a = allocate(1000, cpu), b = allocate(1 << 20, cpu);
    EXPECT_GE(use().current, before + 1000 + (1 << 20));
    EXPECT_LE(use().current, before + (1000 + (1 << 20)) * 9 / 8 + 128) << "rounding costs no more than an eighth";
    EXPECT_EQ(a->bytes(), 1000u);
  }
  EXPECT_EQ(use().current, before);
}

TEST(Allocator, IsAlignedAndWritableForEverySize) {
  for (size_t bytes = 0; bytes < 5000; bytes += 7) {
    const auto buffer = allocate(bytes, cpu);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    std::fill_n(buffer->data(), bytes, std::byte{1});
  }
}

TEST(Allocator, IsWatchedWhileAWatchExists) {
  { const auto before = allocate(1000, cpu); }
  {
    const AllocationWatch watch(cpu);
    EXPECT_EQ(watch.calls(), 0);
    { const auto a = allocate(1000, cpu), b = allocate(1000, cpu); }
    EXPECT_EQ(watch.calls(), 4);
    EXPECT_GT(watch.seconds(), 0);
    EXPECT_LT(watch.seconds(), 1);
    EXPECT_THROW(AllocationWatch second(cpu), Error);
  }
  EXPECT_EQ(AllocationWatch(cpu).calls(), 0) << "a new watch begins anew";
}

TEST(Allocator, KnowsItsPeak) {
  const size_t before = use().current;
  reset_peak(cpu);
  EXPECT_EQ(use().peak, before);
  { const auto a = allocate(1 << 16, cpu); }
  { const auto b = allocate(1 << 14, cpu); }
  EXPECT_GE(use().peak, before + (1 << 16));
  EXPECT_LT(use().peak, before + (1 << 16) + (1 << 14));
  reset_peak(cpu);
  EXPECT_EQ(use().peak, before);
}

TEST(Allocator, CountsByPurpose) {
  const auto of = [](Purpose purpose) { return use().by_purpose[static_cast<size_t>(purpose)]; };
  const size_t weights = of(Purpose::weights), data = of(Purpose::data), activations = of(Purpose::activations);
  std::shared_ptr<Buffer> a, b, c;
  {
    const PurposeScope outer(Purpose::weights);
    a = allocate(4096, cpu);
    {
      const PurposeScope inner(Purpose::data);
      b = allocate(8192, cpu);
    }
    EXPECT_EQ(of(Purpose::weights), weights + 4096);
    std::thread([&] { c = allocate(2048, cpu); }).join();  // the scope is this thread's
  }
  EXPECT_EQ(of(Purpose::data), data + 8192);
  EXPECT_EQ(of(Purpose::activations), activations + 2048);
  a.reset();  // outside its scope
  EXPECT_EQ(of(Purpose::weights), weights);
  EXPECT_EQ(of(Purpose::data), data + 8192);
}

TEST(Allocator, GivesItsCacheBack) {
  { const auto a = allocate(1 << 20, cpu); }
#ifndef __SANITIZE_ADDRESS__
  const size_t cached = use().cached;
  EXPECT_GE(cached, size_t{1} << 20);
  { const auto again = allocate((1 << 20) - 100, cpu); }
  EXPECT_EQ(use().cached, cached) << "a similar request takes the same block";
#endif
  release_cache(cpu);
  EXPECT_EQ(use().cached, 0u);
}

#ifndef __SANITIZE_ADDRESS__  // under which nothing is reused
TEST(Allocator, AThreadGetsBackTheBlockThatItFreed) {
  constexpr size_t bytes = 123456;
  std::byte *first[2] = {}, *second[2] = {};
  const auto in_both_threads = [](const auto& f) {
#pragma omp parallel num_threads(2)
    f(omp_get_thread_num());
  };
  std::shared_ptr<Buffer> held[2];
  in_both_threads([&](int t) { held[t] = allocate(bytes, cpu), first[t] = held[t]->data(); });
  in_both_threads([&](int t) { held[t].reset(); });
  in_both_threads([&](int t) { held[t] = allocate(bytes, cpu), second[t] = held[t]->data(); });
  EXPECT_EQ(first[0], second[0]);
  EXPECT_EQ(first[1], second[1]);
  held[0].reset();
  held[1].reset();
  const size_t cached = use().cached;
  const auto a = allocate(bytes, cpu), b = allocate(bytes, cpu);  // its own, then the other's
  EXPECT_LE(use().cached, cached - 2 * bytes);
}
#endif

TEST(Allocator, TooMuchIsAnErrorAndLeavesNoTrace) {
#ifndef __SANITIZE_ADDRESS__  // which ends the program instead
  const size_t before = use().current;
  EXPECT_THROW(allocate(size_t{1} << 60, cpu), Error);
  EXPECT_EQ(use().current, before);
#endif
}

TEST(Allocator, ThreadsShareIt) {
  const size_t before = use().current;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 2000; ++i) {
        const auto a = allocate(static_cast<size_t>(64 * (i % 7) + 1), cpu), b = allocate(1000, cpu);
        std::fill_n(a->data(), a->bytes(), std::byte(t));
        for (size_t k = 0; k < a->bytes(); ++k) ASSERT_EQ(a->data()[k], std::byte(t));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(use().current, before);
}

}  // namespace
}  // namespace flame
