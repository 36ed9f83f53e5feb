#include "flame/core/generator.h"

#include <gtest/gtest.h>

#include <cmath>

#include "flame/core/tensor.h"

namespace flame {
namespace {

using Words = std::array<uint32_t, 4>;

// kat_vectors of the authors' library Random123.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0u, ~0u, ~0u, ~0u}, ~uint64_t{0}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

std::vector<float> normal(uint64_t seed, uint32_t step, int calls_before, int64_t first, int64_t samples) {
  Generator generator(seed);
  generator.set_step(step);
  for (int i = 0; i < calls_before; ++i) generator.next_call();
  return Tensor::randn({samples, 7}, generator, Device::cpu(), first).to_host<float>();
}

TEST(Generator, DoesNotSeeHowABatchIsSplit) {
  const std::vector<float> whole = normal(3, 5, 1, 0, 6);
  std::vector<float> parts = normal(3, 5, 1, 0, 2);
  for (float value : normal(3, 5, 1, 2, 4)) parts.push_back(value);
  EXPECT_EQ(parts, whole);
}

TEST(Generator, EverythingThatShouldMatterDoes) {
  const std::vector<float> base = normal(3, 5, 1, 0, 2);
  EXPECT_EQ(normal(3, 5, 1, 0, 2), base);
  EXPECT_NE(normal(4, 5, 1, 0, 2), base);
  EXPECT_NE(normal(3 + (uint64_t{1} << 32), 5, 1, 0, 2), base);
  EXPECT_NE(normal(3, 6, 1, 0, 2), base);
  EXPECT_NE(normal(3, 5, 2, 0, 2), base);
  EXPECT_NE(normal(3, 5, 1, 1, 2), base);
}

TEST(Generator, AStepBeginsAnewAndCallsDiffer) {
  Generator generator(1);
  generator.set_step(9);
  const auto first = Tensor::rand({5}, generator).to_host<float>(),
             second = Tensor::rand({5}, generator).to_host<float>();
  generator.set_step(9);
  EXPECT_EQ(Tensor::rand({5}, generator).to_host<float>(), first);
  EXPECT_NE(first, second);
}

TEST(Generator, DoesNotSeeTheThreads) {
  const int before = threads();
  set_threads(1);
  const std::vector<float> one = normal(3, 5, 1, 0, 10007);
  set_threads(3);
  EXPECT_EQ(normal(3, 5, 1, 0, 10007), one);
  set_threads(before);
}

TEST(Generator, SeedOfTheDefault) {
  manual_seed(11);
  const auto first = Tensor::randn({4}).to_host<float>();
  manual_seed(12);
  EXPECT_NE(Tensor::randn({4}).to_host<float>(), first);
  manual_seed(11);
  EXPECT_EQ(Tensor::randn({4}).to_host<float>(), first);
}

// Moments within five standard errors of the distribution's.
TEST(Generator, NormalMoments) {
  Generator generator(1234);
  const std::vector<float> x = Tensor::randn({1000, 1000}, generator).to_host<float>();
  const double n = static_cast<double>(x.size());
  double powers[5] = {}, neighbours = 0, rows = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    for (int k = 1; k < 5; ++k) powers[k] += std::pow(double{x[i]}, k) / n;
    if (i + 1 < x.size()) neighbours += double{x[i]} * x[i + 1] / n;
    if (i + 1000 < x.size()) rows += double{x[i]} * x[i + 1000] / n;
  }
  EXPECT_NEAR(powers[1], 0, 5 * std::sqrt(1 / n));
  EXPECT_NEAR(powers[2], 1, 5 * std::sqrt(2 / n));
  EXPECT_NEAR(powers[3], 0, 5 * std::sqrt(15 / n));
  EXPECT_NEAR(powers[4], 3, 5 * std::sqrt(96 / n));
  EXPECT_NEAR(neighbours, 0, 5 * std::sqrt(1 / n));
  EXPECT_NEAR(rows, 0, 5 * std::sqrt(1 / n));
}

// Chi squared over 64 equal bins: mean 63, standard deviation sqrt(126).
template <class T>
void expect_even(const std::vector<T>& values, double low, double high) {
  std::vector<double> bins(64);
  for (T value : values) {
    ASSERT_GE(static_cast<double>(value), low);
    ASSERT_LT(static_cast<double>(value), high);
    ++bins[static_cast<size_t>((static_cast<double>(value) - low) / (high - low) * 64)];
  }
  const double expected = static_cast<double>(values.size()) / 64;
  double chi = 0;
  for (double bin : bins) chi += (bin - expected) * (bin - expected) / expected;
  EXPECT_NEAR(chi, 63, 5 * std::sqrt(126));
}

TEST(Generator, UniformAndIntegersAreEven) {
  Generator generator(99);
  expect_even(Tensor::rand({300, 1001}, generator).to_host<float>(), 0, 1);
  expect_even(Tensor::randint(-64, 128, {300, 1001}, generator).to_host<int64_t>(), -64, 128);
  EXPECT_THROW(Tensor::randint(3, 3, {2}, generator), Error);
}

}  // namespace
}  // namespace flame
