#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/io/pictures.h"

namespace flame {
namespace {

using testing::error_of;
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

// --- files that are no pictures, or only a part of one ---

constexpr const char* one_of_each[] = {"rgb.png",         "interlaced.png",   "turned7.png",  "rgb.jpg",
                                       "progressive.jpg", "turned6.jpg",      "cmyk.jpg",     "lossy.webp",
                                       "alpha.webp",      "lossy_alpha.webp", "lossless.webp"};

class CutShort : public ::testing::TestWithParam<const char*> {};

TEST_P(CutShort, IsAnErrorWhereverItIsCut) {
  const std::string whole = read_file(picture(GetParam()));
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    const std::string error = error_of([&] { decode_image(whole.substr(0, bytes), "cut.xyz"); });
    EXPECT_TRUE(error.starts_with("cut.xyz: ")) << "cut to " << bytes << " of " << whole.size() << ": " << error;
  }
}

INSTANTIATE_TEST_SUITE_P(, CutShort, ::testing::ValuesIn(one_of_each), test_name);

// Not all damage can be told from another picture; none may do worse than an error.
class Damaged : public ::testing::TestWithParam<const char*> {};

TEST_P(Damaged, GivesAPictureOrAnError) {
  const std::string whole = read_file(picture(GetParam()));
  size_t errors = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const int bit : {0x01, 0x10, 0x80}) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ bit);
      errors += !error_of([&] { decode_image(damaged, "damaged"); }).empty();
    }
  }
  EXPECT_GT(errors, 0u);
}

INSTANTIATE_TEST_SUITE_P(, Damaged, ::testing::ValuesIn(one_of_each), test_name);

TEST(DecodeImage, NamesTheFileAndWhatItIs) {
  EXPECT_EQ(error_of([] { decode_image("", "a.png"); }), "a.png: the file is empty; replace or remove it");
  EXPECT_EQ(error_of([] { decode_image("a caption, not a picture", "a.png"); }),
            "a.png: not a picture: expected a JPEG, PNG or WebP file; replace or remove it");
  EXPECT_EQ(error_of([] { decode_image("GIF89a....", "a.png"); }),
            "a.png: GIF is not read: convert the picture to PNG, JPEG or WebP");
  EXPECT_EQ(error_of([] {
              decode_image(std::string("\0\0\0\x20"
                                       "ftypavif",
                                       12),
                           "a.jpg");
            }),
            "a.jpg: AVIF is not read: convert the picture to PNG, JPEG or WebP");
  const std::string cut = read_file(picture("rgb.png")).substr(0, 150);
  EXPECT_EQ(error_of([&] { decode_image(cut, "a.png"); }),
            "a.png: broken PNG: the file is cut short; replace or remove the file");
  const std::string jpeg = read_file(picture("rgb.jpg")).substr(0, 700);
  EXPECT_EQ(error_of([&] { decode_image(jpeg, "a.jpg"); }),
            "a.jpg: broken JPEG: Premature end of JPEG file; replace or remove the file");
  const std::string missing = error_of([] { decode_image("/nowhere/a.png"); });
  EXPECT_EQ(missing, "cannot open /nowhere/a.png: there is no such file");
}

TEST(DecodeImage, RefusesPicturesThatUnpackToTooMuch) {
  std::string png = read_file(picture("rgb.png"));
  const auto header_with = [&](uint8_t width, uint8_t height, const std::string& crc) {  // in units of 2^16 / 2^8
    std::string bomb = png;
    bomb[17] = static_cast<char>(width);
    bomb[22] = static_cast<char>(height);
    return bomb.replace(29, 4, crc);
  };
  // 65555 x 2829 pixels; the checksum is zlib's crc32 of the altered header.
  EXPECT_EQ(error_of([&] { decode_image(header_with(1, 11, "\x5d\x4c\xda\xe5"), "a.png"); }),
            "a.png: the picture has 65555 x 2829 pixels, at most 178956970 are read: make it smaller");
}

TEST(ImageFormat, GoesByContent) {
  EXPECT_EQ(image_format(read_file(picture("rgb.png"))), "PNG");
  EXPECT_EQ(image_format(read_file(picture("rgb.jpg"))), "JPEG");
  EXPECT_EQ(image_format(read_file(picture("lossy.webp"))), "WebP");
  EXPECT_EQ(image_format("GIF89a"), "");
  EXPECT_EQ(image_format(""), "");
}

// --- writing ---

TEST(EncodePng, GivesBackThePixels) {
  const Image image = read_ppm(picture("resize.ppm"));
  EXPECT_TRUE(decode_image(encode_png(image), "memory") == image);
  EXPECT_THROW(encode_png(Image()), Error);
}

TEST(EncodePng, WritesTextsWhereOtherProgramsLook) {
  const std::string png = encode_png(Image(1, 1), {{"prompt", "a cat"}, {"title", "größe"}});
  EXPECT_NE(png.find(std::string("\0\0\0\x0ctEXtprompt\0a cat", 20)), std::string::npos);
  EXPECT_NE(png.find(std::string("iTXttitle\0\0\0\0\0größe", 21)), std::string::npos);
  EXPECT_THROW(encode_png(Image(1, 1), {{"", "x"}}), Error);
  EXPECT_THROW(encode_png(Image(1, 1), {{std::string(80, 'k'), "x"}}), Error);
}

TEST(Image, SavesAsPngOnly) {
  const testing::TemporaryFolder folder;
  const Image image = read_ppm(picture("rgb.png.ppm"));
  image.save(folder / "a.png");
  EXPECT_TRUE(decode_image(folder / "a.png") == image);
  EXPECT_EQ(error_of([&] { image.save(folder / "a.jpg"); }),
            "cannot write " + (folder / "a.jpg").string() + ": pictures are saved as PNG, name it .png");
}

// --- tensors ---

TEST(ToTensor, ScalesEveryLevelAndComesBack) {
  Image image(16, 16);
  for (int i = 0; i < 256; ++i) {
    image.row(i / 16)[3 * (i % 16)] = static_cast<uint8_t>(i);
    image.row(i / 16)[3 * (i % 16) + 2] = static_cast<uint8_t>(255 - i);
  }
  const Image both[] = {Image(16, 16, 255), image};
  const Tensor pixels = to_tensor(both);
  ASSERT_EQ(pixels.shape(), (Shape{2, 3, 16, 16}));
  const float* values = pixels.data<float>();
  EXPECT_EQ(values[0], 1);
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(values[768 + i], static_cast<float>((i - 127.5) / 127.5));
    EXPECT_EQ(values[768 + 256 + i], -1);
    EXPECT_EQ(values[768 + 512 + i], static_cast<float>((127.5 - i) / 127.5));
  }
  const std::vector<Image> back = from_tensor(pixels);
  ASSERT_EQ(back.size(), 2u);
  EXPECT_TRUE(back[0] == both[0] && back[1] == both[1]);
}

TEST(ToTensor, WantsPicturesOfOneSize) {
  EXPECT_THROW(to_tensor(std::vector<Image>{}), Error);
  EXPECT_THROW(to_tensor(std::vector{Image(2, 2), Image(2, 3)}), Error);
}

TEST(FromTensor, ClipsRoundsAndRefusesNan) {
  const auto red = [](float value) {
    return from_tensor(Tensor::from<float>({value, 0, 0}, {1, 3, 1, 1})).at(0).rgb().at(0);
  };
  EXPECT_EQ(red(-7), 0);
  EXPECT_EQ(red(1e30f), 255);
  EXPECT_EQ(red(0.3f / 127.5f), 128);   // 127.8
  EXPECT_EQ(red(-0.3f / 127.5f), 127);  // 127.2
  EXPECT_THROW(red(std::nanf("")), Error);
  EXPECT_THROW(from_tensor(Tensor::zeros({3, 4, 4})), Error);
}

// --- geometry ---

TEST(Crop, CutsOutAndChecksTheBorders) {
  const Image image = read_ppm(picture("resize.ppm"));
  const Image part = crop(image, {7, 5, 3, 2});
  ASSERT_EQ(part.width(), 3);
  ASSERT_EQ(part.height(), 2);
  for (int y = 0; y < 2; ++y) {
    EXPECT_TRUE(std::equal(part.row(y), part.row(y) + 9, image.row(5 + y) + 21));
  }
  EXPECT_THROW(crop(image, {48, 0, 3, 1}), Error);
  EXPECT_THROW(crop(image, {-1, 0, 3, 1}), Error);
  EXPECT_THROW(crop(image, {0, 37, 1, 1}), Error);
}

TEST(ContactSheet, PutsEachPictureIntoACellOfTheLargest) {
  const Image sheet = contact_sheet({{Image(2, 1, 10), Image(1, 3, 20)}, {Image(1, 1, 30)}}, 4);
  EXPECT_EQ(sheet.width(), 4 + 2 + 4 + 2 + 4);
  EXPECT_EQ(sheet.height(), 4 + 3 + 4 + 3 + 4);
  const auto at = [&](int x, int y) { return sheet.row(y)[3 * x + 1]; };
  EXPECT_EQ(at(5, 4), 10);
  EXPECT_EQ(at(5, 5), 255);
  EXPECT_EQ(at(10, 6), 20);
  EXPECT_EQ(at(11, 6), 255);
  EXPECT_EQ(at(4, 11), 30);
  EXPECT_EQ(at(3, 11), 255);
}

}  // namespace
}  // namespace flame
