#include "flame/core/closest.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace flame {
namespace {

const std::vector<std::string> names = {"vae", "noise_offset", "network_dim", "network_alpha"};

TEST(Closest, IsTheNameWithTheFewestEdits) {
  EXPECT_EQ(closest("network_dims", names), "network_dim");
  EXPECT_EQ(closest("netwrok_alpha", names), "network_alpha");
  EXPECT_EQ(closest("noise-ofset", names), "noise_offset");
  EXPECT_EQ(closest("vea", std::vector<std::string>{"vae", "va"}), "va");
}

// A third of the letters, rounded up.
TEST(Closest, IsNoneWhereAllAreOtherWords) {
  EXPECT_EQ(closest("network_rank", names), "network_dim");   // 4 of 12
  EXPECT_EQ(closest("network_ranks", names), "network_dim");  // 5 of 13
  EXPECT_EQ(closest("network_weights", names), "");
  EXPECT_EQ(closest("enable_bucket", names), "");
  EXPECT_EQ(closest("v2", names), "");
  EXPECT_EQ(closest("", names), "");
  EXPECT_EQ(closest("vae", {}), "");
}

TEST(Closest, SaysWhatThereIsWhereNoneIsClose) {
  EXPECT_EQ(closest_or_any("noise", std::vector<std::string>{"noises"}), "; the closest is noises");
  EXPECT_EQ(closest_or_any("lowram", names), ", nor one like it; there are 4, such as vae");
  EXPECT_EQ(closest_or_any("lowram", {}), ", nor any other");
}

}  // namespace
}  // namespace flame
