#include "flame/device/arena_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace flame {
namespace {

size_t most_alive(const std::vector<Lifetime>& blocks) {
  size_t most = 0;
  for (const Lifetime& at : blocks) {
    size_t alive = 0;
    for (const Lifetime& block : blocks)
      if (block.begin <= at.begin && at.begin < block.end) alive += block.bytes;
    most = std::max(most, alive);
  }
  return most;
}

void expect_apart(const std::vector<Lifetime>& blocks, const Placement& placement) {
  ASSERT_EQ(placement.offsets.size(), blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    const size_t begin = placement.offsets[i], end = begin + blocks[i].bytes;
    EXPECT_LE(end, placement.bytes);
    for (size_t j = 0; j < i; ++j) {
      const bool together = blocks[j].begin < blocks[i].end && blocks[i].begin < blocks[j].end;
      const size_t other = placement.offsets[j];
      EXPECT_TRUE(!together || other >= end || other + blocks[j].bytes <= begin) << i << " and " << j;
    }
  }
}

TEST(Place, NeedsHardlyMoreThanIsAlive) {
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    // A step's kind of blocks: many short ones, some from the way there to the way back.
    std::vector<Lifetime> blocks;
    for (size_t i = 0; i < 300; ++i) {
      const size_t begin = random() % 1000, mirrored = 2000 - begin;
      const size_t end = random() % 3 == 0 ? mirrored : begin + 1 + random() % 8;
      blocks.push_back({512 * (1 + random() % 64), begin, end});
    }
    const Placement placement = place(blocks);
    expect_apart(blocks, placement);
    const size_t alive = most_alive(blocks);
    EXPECT_GE(placement.bytes, alive);
    EXPECT_LE(static_cast<double>(placement.bytes), 1.05 * static_cast<double>(alive));
  }
}

TEST(Place, PutsBlocksOfDifferentTimesInOnePlace) {
  EXPECT_EQ(place({{100, 0, 1}, {100, 1, 2}, {60, 0, 2}}).bytes, 160u);
  EXPECT_EQ(place({}).bytes, 0u);
}

// A small block first, whose end leaves a gap that is too small for what comes next: placed as they come, these
// need 50.
struct Step {
  ArenaPlan plan;
  Step() {
    plan.begin();
    plan.note_get(0, 10);
    plan.note_get(10, 20);
    plan.put(0);
    plan.note_get(30, 20);
    plan.put(10);
    plan.put(30);
    plan.settle();
    plan.begin();
  }
};

TEST(ArenaPlan, TellsThePlaces) {
  Step step;
  EXPECT_TRUE(step.plan.settled());
  EXPECT_EQ(step.plan.bytes(), 40u);
  for (int run = 0; run < 2; ++run) {
    step.plan.begin();
    const auto first = step.plan.get(10), second = step.plan.get(20);
    ASSERT_TRUE(first && second);
    step.plan.put(*first);
    const auto third = step.plan.get(20);
    ASSERT_TRUE(third);
    EXPECT_NE(*second, *third);
  }
}

TEST(ArenaPlan, TellsNothingOnceARunDiffers) {
  {
    Step step;
    EXPECT_FALSE(step.plan.get(11)) << "another size";
    EXPECT_FALSE(step.plan.get(10)) << "and all that comes after it";
  }
  {
    Step step;
    step.plan.get(10);
    step.plan.get(20);
    EXPECT_FALSE(step.plan.get(20)) << "the first block still lies there";
  }
  {
    Step step;
    step.plan.get(10);
    step.plan.put(*step.plan.get(20));
    EXPECT_FALSE(step.plan.get(20)) << "another block was given back";
  }
  Step step;
  step.plan.begin();
  EXPECT_TRUE(step.plan.get(10)) << "a new run";
}

TEST(ArenaPlan, NotesOnlyTheLastRun) {
  ArenaPlan plan;
  for (const size_t bytes : {100, 30}) {
    plan.begin();
    plan.note_get(0, bytes);
  }
  plan.settle();
  EXPECT_EQ(plan.bytes(), 30u);
}

}  // namespace
}  // namespace flame
