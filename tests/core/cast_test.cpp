#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "flame/io/safetensors.h"
#include "flame/ops/layout.h"

// Casting whole tensors, whose loops use the vector unit.
namespace flame {
namespace {

template <class T>
std::vector<uint16_t> bits(const Tensor& x) {
  std::vector<uint16_t> result;
  for (const T& value : x.to_host<T>()) result.push_back(value.bits);
  return result;
}

TEST(Cast, RoundsAsPyTorch) {
  const SafetensorsFile file(TESTS_DIR "/data/rounding.safetensors");
  const Tensor x = file.tensor("x");
  ASSERT_GT(x.numel(), 3000);
  EXPECT_EQ(bits<f16>(x.to(DType::f16)), bits<f16>(file.tensor("f16")));
  EXPECT_EQ(bits<bf16>(x.to(DType::bf16)), bits<bf16>(file.tensor("bf16")));
}

TEST(Cast, WidensEveryPattern) {
  std::vector<f16> halves(0x10000);
  std::vector<bf16> brains(0x10000);
  for (uint32_t i = 0; i < 0x10000; ++i) halves[i].bits = brains[i].bits = static_cast<uint16_t>(i);
  const std::vector<float> from_f16 = Tensor::from(halves, {0x10000}).to(DType::f32).to_host<float>();
  const std::vector<float> from_bf16 = Tensor::from(brains, {0x10000}).to(DType::f32).to_host<float>();
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const uint32_t exponent = i >> 10 & 31, fraction = i & 1023;
    const double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                             : exponent == 0 ? std::ldexp(fraction, -24)
                                             : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
    if (std::isnan(magnitude))
      ASSERT_TRUE(std::isnan(from_f16[i])) << i;
    else
      ASSERT_EQ(from_f16[i], i >> 15 ? -magnitude : magnitude) << i;
    ASSERT_EQ(std::bit_cast<uint32_t>(from_bf16[i]), i << 16);
  }
}

TEST(Cast, ToIntegersTowardZeroAndWithinTheirRange) {
  const Tensor x = Tensor::from({-1.9f, 1.9f, 3e9f, -3e9f, 300.0f, NAN, INFINITY, 1e30f}, {8});
  constexpr int32_t low = std::numeric_limits<int32_t>::min(), high = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(x.to(DType::i32).to_host<int32_t>(), (std::vector<int32_t>{-1, 1, high, low, 300, 0, high, high}));
  EXPECT_EQ(x.to(DType::u8).to_host<uint8_t>(), (std::vector<uint8_t>{0, 1, 255, 0, 255, 0, 255, 255}));
  EXPECT_EQ(x.to(DType::i64).to_host<int64_t>()[2], 3000000000);
  EXPECT_EQ(x.to(DType::i64).to_host<int64_t>()[7], std::numeric_limits<int64_t>::max());
  const Tensor flags = Tensor::from({0.0f, -0.0f, 0.5f, NAN}, {4}).to(DType::boolean);
  EXPECT_EQ(flags.to(DType::i32).to_host<int32_t>(), (std::vector<int32_t>{0, 0, 1, 1}));
}

TEST(Cast, OfIntegersIsRoundedOnce) {
  const Tensor x = Tensor::from<int64_t>({16777217, -16777219, 65519, 65520}, {4});
  EXPECT_EQ(x.to(DType::f32).to_host<float>(), (std::vector<float>{16777216, -16777220, 65519, 65520}));
  EXPECT_EQ(bits<f16>(x.to(DType::f16)), (std::vector<uint16_t>{0x7C00, 0xFC00, 0x7BFF, 0x7C00}));
}

TEST(Cast, ToItsOwnDTypeIsTheSameTensor) {
  const Tensor x = Tensor::ones({3}).requires_grad();
  EXPECT_EQ(x.to(DType::f32).raw(), x.raw());
  EXPECT_EQ(x.to(DType::f32).slot(), x.slot());
}

}  // namespace
}  // namespace flame
