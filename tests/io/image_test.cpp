#include <gtest/gtest.h>

#include <algorithm>

#include "tests/io/pictures.h"

namespace flame {
namespace {

using testing::picture;
using testing::read_file;
using testing::read_ppm;

// --- every format gives Pillow's pixels ---

class Decode : public ::testing::TestWithParam<const char*> {};

TEST_P(Decode, GivesTheReferencePixels) {
  const Image image = decode_image(picture(GetParam()));
  const Image expected = read_ppm(picture(std::string(GetParam()) + ".ppm"));
  ASSERT_EQ(image.width(), expected.width());
  ASSERT_EQ(image.height(), expected.height());
  for (size_t i = 0; i < expected.rgb().size(); ++i) {
    ASSERT_EQ(image.rgb()[i], expected.rgb()[i]) << "byte " << i;
  }
}

std::string test_name(const ::testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::ranges::replace(name, '.', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Png, Decode,
                         ::testing::Values("rgb.png", "grey.png", "bits1.png", "grey_alpha.png", "alpha.png",
                                           "palette.png", "palette_clear.png", "rgb_clear.png", "interlaced.png",
                                           "rgb16.png", "grey16.png", "alpha16.png", "turned7.png"),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Jpeg, Decode,
                         ::testing::Values("rgb.jpg", "halved_colour.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg",
                                           "turned1.jpg", "turned2.jpg", "turned3.jpg", "turned4.jpg", "turned5.jpg",
                                           "turned6.jpg", "turned7.jpg", "turned8.jpg"),
                         test_name);
INSTANTIATE_TEST_SUITE_P(WebP, Decode,
                         ::testing::Values("lossy.webp", "lossless.webp", "alpha.webp", "lossy_alpha.webp",
                                           "turned6.webp"),
                         test_name);

// --- resampling ---

class Resize : public ::testing::TestWithParam<std::pair<int, int>> {};

TEST_P(Resize, GivesPillowsPixels) {
  const auto [width, height] = GetParam();
  const Image image = resize(read_ppm(picture("resize.ppm")), width, height);
  EXPECT_TRUE(image == read_ppm(picture(text("resize_", width, "x", height, ".ppm"))));
}

TEST_P(Resize, OfAPartIsThePartOfTheWhole) {
  const auto [width, height] = GetParam();
  const Image image = read_ppm(picture("resize.ppm"));
  const Rectangle part = {width / 3, height / 4, width - width / 2, height - height / 2};
  EXPECT_TRUE(resize(image, width, height, part) == crop(resize(image, width, height), part));
}

INSTANTIATE_TEST_SUITE_P(Sizes, Resize,
                         ::testing::Values(std::pair(25, 18), std::pair(16, 37), std::pair(50, 11), std::pair(83, 61),
                                           std::pair(7, 90), std::pair(1, 1), std::pair(50, 64)));
}  // namespace
}  // namespace flame
