// The arithmetic of a training step's memory against what steps on a GPU held.
#include "eri/train/memory_estimate.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "flame/core/error.h"

namespace eri {
namespace {

constexpr double kGiB = 1 << 30;

TEST(MemoryEstimate, IsWithinFivePercentOfWhatWasMeasured) {
  std::ifstream file("docs/data/h100-80gb-hbm3-2026-11-23-1d2c153-training-bf16-rank16-fused.json");
  ASSERT_TRUE(file.is_open()) << "the log of an H100 that this test names is not in docs/data";
  const nlohmann::json log = nlohmann::json::parse(file);
  ASSERT_EQ(log.at("rows").size(), 17u);
  for (const nlohmann::json& row : log.at("rows")) {
    const std::string policy = row.at("policy");
    const MemoryQuestion question = {.unet = {},
                                     .policy = parse_memory_policy(policy),
                                     .rank = log.at("rank"),
                                     .samples = row.at("batch"),
                                     .width = log.at("size"),
                                     .height = log.at("size")};
    const double measured = row.at("peak_gib"), estimated = estimate_memory(question).total() / kGiB;
    EXPECT_NEAR(estimated / measured, 1, 0.05)
        << policy << ", batch " << question.samples << ": " << estimated << " GiB instead of " << measured;
  }
}

TEST(MemoryEstimate, CountsParametersAsTheModelDoes) {
  const MemoryEstimate estimate = estimate_memory({.unet = {}, .rank = 16});
  constexpr int64_t parameters = 42557440;  // of SDXL's 722 modules
  EXPECT_EQ(estimate.adapters, parameters * 4);
  EXPECT_EQ(estimate.optimizer, parameters * 8);
}

TEST(MemoryEstimate, LeavesMoreOutWithEachPolicy) {
  int64_t before = std::numeric_limits<int64_t>::max();
  for (const MemoryPolicy policy : {MemoryPolicy::lean, MemoryPolicy::ff, MemoryPolicy::attn_ff, MemoryPolicy::block}) {
    const MemoryEstimate estimate = estimate_memory({.unet = {}, .policy = policy});
    EXPECT_LT(estimate.total(), before);
    EXPECT_GT(estimate.working, 0);
    before = estimate.total();
  }
}

// By a workspace that was measured to be 320 MiB a picture at 4096 tokens and 10 heads, in the place of GEGLU's result.
TEST(MemoryEstimate, CountsWhatRepeatableAttentionNeeds) {
  for (const int64_t samples : {1, 4}) {
    const int64_t more = estimate_memory({.unet = {}, .samples = samples, .deterministic = true}).working -
                         estimate_memory({.unet = {}, .samples = samples}).working;
    // Instead of five pictures of 320 channels at the forward pass' end, when 11 of them are still kept for norms; and
    // in each of 4096 rows what is held for the adapters of the block before, beyond what that block had kept.
    const int64_t held = 4096 * (2 * (9 * 640 + 6 * 64) - 4 * (3 + 2 * 10));
    EXPECT_EQ(more, samples * ((int64_t{320} << 20) - (5 + 11) * 128 * 128 * 320 * 2 + held));
  }
}

TEST(MemoryEstimate, GrowsWithPicturesAndRank) {
  const auto kept = [](int64_t samples, int64_t side) {
    return estimate_memory({.unet = {}, .samples = samples, .width = side, .height = side}).kept;
  };
  EXPECT_EQ(kept(4, 1024), 4 * kept(1, 1024));
  EXPECT_EQ(4 * kept(1, 512), kept(1, 1024));
  EXPECT_EQ(estimate_memory({.unet = {}, .rank = 64}).adapters, 4 * estimate_memory({.unet = {}, .rank = 16}).adapters);
  EXPECT_THROW(estimate_memory({.unet = {}, .samples = 0}), flame::Error);
}

}  // namespace
}  // namespace eri
