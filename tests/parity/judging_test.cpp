#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "compare.h"

// What a case.json says of limits, and what is judged by them.
namespace eri::parity {
namespace {

using flame::DType;

class Judging : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_.parent_path()); }

  Case load(DType dtype, const std::string& geometry = "null", const std::string& tolerance = "1e-4",
            const std::string& kind = "unet_lora", int draws = 2) const {
    std::ofstream(folder_ / "case.json") << R"({"params": {}, "seed": null, "geometry": )" << geometry
                                         << R"(, "tolerance": )" << tolerance << R"(, "kind": ")" << kind
                                         << R"(", "draws": )" << draws << R"(, "tolerances": {"grad.*": 1e-3},
      "groups": {"grad.*": 1e-3}, "bf16": {"out": 0.01, "grad.a": 0.1, "grad.b": 0.1, "grad.*": 0.1}})";
    Options options;
    options.geometries = TESTS_DIR "/geometries";
    options.dtype = dtype;
    return load_case(folder_, options);
  }

  static Tensors off_by(float out, float a, float b) {
    const auto pair = [](float off) { return Tensor::from({1.0f, off}, {2}); };
    return {{"out", pair(out)}, {"grad.a", pair(a)}, {"grad.b", pair(b)}};
  }

  // All that is beyond its limit where every tensor is (1, 0) and off by these.
  static std::vector<std::string> failures(const Case& c, float out, float a, float b) {
    return failures(c, {off_by(out, a, b)});
  }
  static std::vector<std::string> failures(const Case& c, const std::vector<Tensors>& draws) {
    std::vector<std::string> names;
    for (const Finding& finding : compare(draws, off_by(0, 0, 0), c.tolerances, c.groups)) {
      if (!finding.ok()) names.push_back(finding.tensor);
    }
    return names;
  }

 private:
  std::filesystem::path folder_ = std::filesystem::path(testing::TempDir()) /
                                  testing::UnitTest::GetInstance()->current_test_info()->name() / "case";
};

using Names = std::vector<std::string>;

TEST_F(Judging, F32ByTolerances) {
  const Case c = load(DType::f32);
  EXPECT_EQ(failures(c, 9e-5f, 9e-4f, 9e-4f), Names{});
  EXPECT_EQ(failures(c, 2e-4f, 9e-4f, 1.05e-3f), (Names{"grad.b", "out"}));
  EXPECT_EQ(failures(c, 0, 2e-3f, 0), (Names{"grad.a", "all:grad.*"}));
}

TEST_F(Judging, Bf16ByHowFarTheReferenceIsItself) {
  const Case c = load(DType::bf16);
  EXPECT_EQ(failures(c, 0.0109f, 0.109f, 0.109f), Names{});
  EXPECT_EQ(failures(c, 0.0111f, 0, 0), Names{"out"});
  EXPECT_EQ(failures(c, 0, 0.111f, 0.111f), Names{"all:grad.*"});
  EXPECT_EQ(failures(c, 0, 0.15f, 0), Names{});  // a single one of a group may be further away
  EXPECT_EQ(failures(c, 0, 0.31f, 0), (Names{"grad.a", "all:grad.*"}));
}

TEST_F(Judging, OfDrawsTheMeanDistance) {
  const Case c = load(DType::bf16);
  EXPECT_EQ(c.draws, 2);
  EXPECT_EQ(load(DType::f16).draws, 1);  // where the reference's distances are not known
  EXPECT_EQ(failures(c, {off_by(0.016f, 0, 0), off_by(-0.005f, 0, 0)}), Names{});
  EXPECT_EQ(failures(c, {off_by(0.016f, 0, 0), off_by(-0.007f, 0, 0)}), Names{"out"});
  EXPECT_THROW(load(DType::bf16, "null", "1e-4", "unet_lora", 0), flame::Error);
  EXPECT_THROW(load(DType::bf16, "null", "1e-4", "unet", 2), flame::Error);
  EXPECT_EQ(failures(c, {off_by(0, 0.2f, 0.2f), off_by(0, 0.03f, 0.03f)}), Names{"all:grad.*"});
  EXPECT_EQ(failures(c, {off_by(0, 0, 0), off_by(std::numeric_limits<float>::quiet_NaN(), 0, 0)}), Names{"out"});
}

TEST_F(Judging, ANullToleranceStillWantsNumbers) {
  const Case c = load(DType::f32, "null", "null");
  EXPECT_EQ(failures(c, 1e6f, 0, 0), Names{});
  EXPECT_EQ(failures(c, std::numeric_limits<float>::quiet_NaN(), 0, 0), Names{"out"});
}

TEST_F(Judging, ACaseWithoutASeedNeedsAFile) {
  try {
    load(DType::f32, R"("tiny-a")");
    FAIL() << "nothing was thrown";
  } catch (const flame::Error& error) {
    EXPECT_NE(std::string(error.what()).find("--checkpoint"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace eri::parity
