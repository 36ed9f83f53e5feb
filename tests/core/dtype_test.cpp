#include "flame/core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

// The storage types by their definition. This file is built twice: with the CPU's conversions and with our own.
namespace flame {
namespace {

// Sign, `exponent_bits`, the rest fraction, IEEE 754.
struct Format {
  int exponent_bits, fraction_bits;
  constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  constexpr uint32_t infinity() const { return ((1u << exponent_bits) - 1) << fraction_bits; }

  double value(uint32_t magnitude) const {  // of the bits without the sign
    const int exponent = static_cast<int>(magnitude >> fraction_bits);
    const double fraction = std::ldexp(magnitude & ((1u << fraction_bits) - 1), -fraction_bits);
    if (exponent == 0) return std::ldexp(fraction, 1 - bias());
    return std::ldexp(1 + fraction, exponent - bias());
  }
};

template <class T>
constexpr Format format = {};
template <>
constexpr Format format<f16> = {5, 10};
template <>
constexpr Format format<bf16> = {8, 7};

template <class T>
T from_bits(uint32_t bits) {
  T result;
  result.bits = static_cast<uint16_t>(bits);
  return result;
}

template <class T>
class Storage : public testing::Test {};
using Types = testing::Types<f16, bf16>;
TYPED_TEST_SUITE(Storage, Types);

TYPED_TEST(Storage, EveryPatternHasItsValue) {
  constexpr Format f = format<TypeParam>;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint32_t magnitude = bits & 0x7FFF;
    const float got = static_cast<float>(from_bits<TypeParam>(bits));
    ASSERT_EQ(std::signbit(got), bits >= 0x8000) << bits;
    if (magnitude > f.infinity())
      ASSERT_TRUE(std::isnan(got)) << bits;
    else
      ASSERT_EQ(std::fabs(got), magnitude == f.infinity() ? INFINITY : f.value(magnitude)) << bits;
  }
}

TYPED_TEST(Storage, EveryValueComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = static_cast<float>(from_bits<TypeParam>(bits));
    const TypeParam back(value);
    if (std::isnan(value))
      ASSERT_TRUE(std::isnan(static_cast<float>(back))) << bits;
    else
      ASSERT_EQ(back.bits, bits);
  }
}

// Between every two neighbours: the middle goes to the even one, a float next to the middle to the nearer.
TYPED_TEST(Storage, RoundsToNearestEven) {
  constexpr Format f = format<TypeParam>;
  for (uint32_t low = 0; low < f.infinity(); ++low) {
    const double next = std::ldexp(1.0, f.bias() + 1), high = low + 1 == f.infinity() ? next : f.value(low + 1);
    const float middle = static_cast<float>((f.value(low) + high) / 2);
    ASSERT_EQ(middle, (f.value(low) + high) / 2);
    ASSERT_EQ(TypeParam(middle).bits, low % 2 ? low + 1 : low) << middle;
    ASSERT_EQ(TypeParam(-middle).bits, (low % 2 ? low + 1 : low) | 0x8000) << middle;
    ASSERT_EQ(TypeParam(std::nextafter(middle, 0.0f)).bits, low) << middle;
    ASSERT_EQ(TypeParam(std::nextafter(middle, INFINITY)).bits, low + 1) << middle;
  }
}

TYPED_TEST(Storage, ExtremesAndNaN) {
  constexpr uint32_t infinity = format<TypeParam>.infinity();
  EXPECT_EQ(TypeParam(std::numeric_limits<float>::max()).bits, infinity);
  EXPECT_EQ(TypeParam(-INFINITY).bits, infinity | 0x8000);
  EXPECT_EQ(TypeParam(std::numeric_limits<float>::denorm_min()).bits, 0);
  EXPECT_EQ(TypeParam(-std::numeric_limits<float>::denorm_min()).bits, 0x8000);
  for (uint32_t payload : {1u, 0x1000u, 0x2000u, 0x400000u, 0x7FFFFFu}) {  // never an infinity
    const uint16_t bits = TypeParam(std::bit_cast<float>(0xFF800000u | payload)).bits;
    EXPECT_GT(bits & 0x7FFF, static_cast<int>(infinity)) << payload;
    EXPECT_TRUE(bits & 0x8000);
  }
}

}  // namespace
}  // namespace flame
