#include "eri/data/epoch_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "flame/core/error.h"

namespace eri {
namespace {

using Indices = std::vector<size_t>;

// From tests/reference/epoch_order.py. A change of these would break the resuming of runs.
TEST(EpochOrder, IsTheReferences) {
  EXPECT_EQ(epoch_order(10, 0, 0), (Indices{4, 7, 6, 8, 5, 2, 0, 3, 9, 1}));
  EXPECT_EQ(epoch_order(10, 0, 1), (Indices{9, 4, 1, 6, 8, 5, 0, 7, 3, 2}));
  EXPECT_EQ(epoch_order(10, 42, 0), (Indices{9, 4, 6, 0, 3, 1, 8, 2, 7, 5}));
  EXPECT_EQ(epoch_order(10, uint64_t{1} << 63, (uint64_t{1} << 32) + 5), (Indices{3, 7, 9, 6, 1, 0, 4, 8, 2, 5}));
}

TEST(EpochOrder, IsAPermutationOfAnySize) {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{1000}}) {
    Indices order = epoch_order(count, 3, 4);
    std::ranges::sort(order);
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(order[i], i);
    EXPECT_EQ(order.size(), count);
  }
}

TEST(EpochOrder, GivesEachPermutationItsShare) {
  constexpr int epochs = 24'000;
  std::map<Indices, int> counts;
  for (uint64_t epoch = 0; epoch < epochs; ++epoch) ++counts[epoch_order(4, 7, epoch)];
  ASSERT_EQ(counts.size(), 24u);
  double chi_squared = 0;
  for (const auto& [order, count] : counts) chi_squared += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_squared, 49.7);  // the 99.9 % point for 23 degrees of freedom
}

TEST(BatchOrder, CountsRepeatsInEveryEpoch) {
  const BatchOrder order({1, 3, 2}, 2, 5);
  ASSERT_EQ(order.epoch_size(), 6u);
  for (uint64_t epoch = 0; epoch < 20; ++epoch) {
    Indices seen;
    for (uint64_t step = 3 * epoch; step < 3 * epoch + 3; ++step) {
      for (size_t index : order.batch(step)) seen.push_back(index);
    }
    std::ranges::sort(seen);
    EXPECT_EQ(seen, (Indices{0, 1, 1, 1, 2, 2}));
  }
}

TEST(BatchOrder, FillsTheLastBatchFromTheNextEpoch) {
  const BatchOrder order({1, 1, 1, 1, 1}, 3, 9);
  Indices flat, expected;
  for (uint64_t step = 0; step < 10; ++step) {
    const Indices batch = order.batch(step);
    ASSERT_EQ(batch.size(), 3u);
    flat.insert(flat.end(), batch.begin(), batch.end());
  }
  for (uint64_t epoch = 0; epoch < 6; ++epoch) {
    for (size_t index : epoch_order(5, 9, epoch)) expected.push_back(index);
  }
  EXPECT_EQ(flat, expected);
}

TEST(BatchOrder, RunsThroughSeveralEpochsInABatchLargerThanOne) {
  const BatchOrder order({1, 1}, 5, 9);
  Indices expected;
  for (uint64_t epoch = 0; epoch < 3; ++epoch) {
    for (size_t index : epoch_order(2, 9, epoch)) expected.push_back(index);
  }
  expected.resize(5);
  EXPECT_EQ(order.batch(0), expected);
}

TEST(BatchOrder, GoesByTheStepAlone) {
  const BatchOrder order({2, 1, 1, 4}, 3, 1);
  const Indices late = order.batch(1'000'003);
  order.batch(0);
  EXPECT_EQ(order.batch(1'000'003), late);
  EXPECT_EQ(BatchOrder({2, 1, 1, 4}, 3, 1).batch(1'000'003), late);
}

TEST(BatchOrder, KeepsTheOrderOfNamesWithoutShuffling) {
  const BatchOrder order({1, 2, 1}, 3, 1, false);
  EXPECT_EQ(order.batch(0), (Indices{0, 1, 1}));
  EXPECT_EQ(order.batch(1), (Indices{2, 0, 1}));
}

TEST(BatchOrder, RefusesWhatHasNoOrder) {
  EXPECT_THROW(BatchOrder({}, 1, 0), flame::Error);
  EXPECT_THROW(BatchOrder({1, 0}, 1, 0), flame::Error);
  EXPECT_THROW(BatchOrder({1}, 0, 0), flame::Error);
}

}  // namespace
}  // namespace eri
