#include "flame/core/scalar_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

// Against the C library in double precision, at a hundred thousand points of every range.
namespace flame {
namespace {

template <class F, class G>
void expect_relative(const F& f, const G& exact, float low, float high, double bound) {
  double worst = 0;
  float where = 0;
  for (int i = 0; i <= 100000; ++i) {
    const float x = low + (high - low) * (static_cast<float>(i) / 100000);
    const double expected = exact(double{x});
    const double error = expected == 0 ? std::fabs(f(x)) : std::fabs(f(x) / expected - 1);
    if (error > worst) worst = error, where = x;
  }
  EXPECT_LE(worst, bound) << "at " << where;
}

constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();

TEST(ScalarMath, Exp) {
  const auto exact = [](double x) { return std::exp(x); };
  expect_relative(fast_exp, exact, -87.3f, 88.7f, 2e-7);
  expect_relative(fast_exp, exact, -0.01f, 0.01f, 2e-7);
  for (float x = -104; x < -87; x += 0.125f) EXPECT_NEAR(fast_exp(x), std::exp(double{x}), 0x1p-149);  // subnormal
  EXPECT_EQ(fast_exp(0), 1);
  EXPECT_EQ(fast_exp(-105), 0);
  EXPECT_EQ(fast_exp(-infinity), 0);
  EXPECT_EQ(fast_exp(88.8f), infinity);
  EXPECT_EQ(fast_exp(infinity), infinity);
  EXPECT_TRUE(std::isnan(fast_exp(nan)));
}

TEST(ScalarMath, Erf) {
  const auto exact = [](double x) { return std::erf(x); };
  for (float limit : {0.01f, 1.1f, 5.0f}) expect_relative(fast_erf, exact, -limit, limit, 3e-7);
  for (float x = -6; x < 6; x += 0.0001f) ASSERT_NEAR(fast_erf(x), std::erf(double{x}), 1.2e-7);
  EXPECT_EQ(fast_erf(infinity), 1);
  EXPECT_EQ(fast_erf(-infinity), -1);
  EXPECT_EQ(std::signbit(fast_erf(-0.0f)), true);
  EXPECT_TRUE(std::isnan(fast_erf(nan)));
}

TEST(ScalarMath, Tanh) {
  const auto exact = [](double x) { return std::tanh(x); };
  for (float limit : {0.01f, 1.0f, 12.0f}) expect_relative(fast_tanh, exact, -limit, limit, 3e-7);
  EXPECT_EQ(fast_tanh(infinity), 1);
  EXPECT_EQ(fast_tanh(-infinity), -1);
  EXPECT_TRUE(std::isnan(fast_tanh(nan)));
}

TEST(ScalarMath, Sigmoid) {
  expect_relative(
      fast_sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -80, 80, 4e-7);
  EXPECT_EQ(fast_sigmoid(infinity), 1);
  EXPECT_EQ(fast_sigmoid(-infinity), 0);
  EXPECT_TRUE(std::isnan(fast_sigmoid(nan)));
}

}  // namespace
}  // namespace flame
