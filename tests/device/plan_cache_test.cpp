#include "flame/device/plan_cache.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

namespace flame {
namespace {

namespace fs = std::filesystem;

struct PlanCacheTest : testing::Test {
  fs::path folder = fs::path(testing::TempDir()) /
                    (std::string("plans-") + testing::UnitTest::GetInstance()->current_test_info()->name());
  fs::path file = folder / "inner" / "plans.bin";
  const std::string binary = std::string("a\0b\n\xff", 5);

  void SetUp() override { fs::remove_all(folder); }
  void TearDown() override { fs::remove_all(folder); }

  std::string contents() const {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  void overwrite(const std::string& bytes) const { std::ofstream(file, std::ios::binary) << bytes; }
};

TEST_F(PlanCacheTest, FindsAgainWhatWasSaved) {
  PlanCache first(file);
  EXPECT_FALSE(first.find("key"));
  first.put("key", binary);
  first.put("empty", "");
  EXPECT_EQ(first.find("key"), binary);
  EXPECT_FALSE(PlanCache(file).find("key")) << "before save";
  ASSERT_TRUE(first.save());
  const PlanCache second(file);
  EXPECT_EQ(second.find("key"), binary);
  EXPECT_EQ(second.find("empty"), "");
  EXPECT_FALSE(second.find("other"));
}

TEST_F(PlanCacheTest, AddsToWhatAnotherProcessSavedMeanwhile) {
  PlanCache one(file), two(file);
  one.put("a", "1");
  two.put("b", "2");
  ASSERT_TRUE(one.save());
  ASSERT_TRUE(two.save());
  const PlanCache both(file);
  EXPECT_EQ(both.find("a"), "1");
  EXPECT_EQ(both.find("b"), "2");
}

TEST_F(PlanCacheTest, LeavesNothingButTheFile) {
  PlanCache cache(file);
  cache.put("a", "1");
  ASSERT_TRUE(cache.save());
  EXPECT_EQ(std::distance(fs::directory_iterator(file.parent_path()), fs::directory_iterator()), 1);
}

TEST_F(PlanCacheTest, TakesADamagedFileForAnEmptyOneAndReplacesIt) {
  PlanCache cache(file);
  cache.put("key", binary);
  ASSERT_TRUE(cache.save());
  const std::string good = contents();
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] ^= 0x10;
    overwrite(bad);
    EXPECT_FALSE(PlanCache(file).find("key")) << "byte " << i << " changed";
    overwrite(good.substr(0, i));
    EXPECT_FALSE(PlanCache(file).find("key")) << "cut at byte " << i;
  }
  overwrite(good + "x");
  PlanCache after(file);
  EXPECT_FALSE(after.find("key"));
  after.put("key", "new");
  ASSERT_TRUE(after.save());
  EXPECT_EQ(PlanCache(file).find("key"), "new");
}

TEST_F(PlanCacheTest, GoesOnWhereItCannotWrite) {
  fs::create_directories(folder);
  std::ofstream(folder / "inner") << "a file where the folder should be";
  PlanCache cache(file);
  cache.put("key", "1");
  EXPECT_FALSE(cache.save());
  EXPECT_EQ(cache.find("key"), "1");
}

TEST_F(PlanCacheTest, LiesWhereTheEnvironmentSays) {
  ::setenv("ERI_PLAN_CACHE", folder.c_str(), 1);
  PlanCache& cache = PlanCache::open("library 1.2/card");
  EXPECT_EQ(&cache, &PlanCache::open("library 1.2/card"));
  EXPECT_NE(&cache, &PlanCache::open("library 1.3/card"));
  cache.put("key", "1");
  save_plans();
  EXPECT_EQ(PlanCache(folder / "plans-library-1.2-card.bin").find("key"), "1");

  ::setenv("ERI_PLAN_CACHE", "off", 1);
  PlanCache& memory = PlanCache::open("library 1.2/card");
  EXPECT_FALSE(memory.find("key"));
  memory.put("key", "2");
  EXPECT_FALSE(memory.save());
  ::unsetenv("ERI_PLAN_CACHE");
}

}  // namespace
}  // namespace flame
