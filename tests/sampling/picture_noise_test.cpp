// Noise for a seed against torch's and torchsde's, from tests/reference/torch_noise.py.
#include "eri/sampling/picture_noise.h"

#include <gtest/gtest.h>

#include <cmath>

#include "eri/sampling/torch_generator.h"
#include "flame/io/safetensors.h"
#include "flame/ops/pointwise.h"
#include "tests/distance.h"

namespace eri {
namespace {

using flame::Device;
using flame::distance;

constexpr uint64_t seeds[] = {0, 42, (uint64_t{1} << 32) + 5, 123456789012};

flame::SafetensorsFile expected() { return flame::SafetensorsFile("tests/data/torch_noise.safetensors"); }

// Its logarithms and sines are rounded otherwise in the last bit.
TEST(PictureNoise, IsTorchsRandn) {
  for (uint64_t seed : seeds) {
    const std::vector<float> wanted = expected().tensor("randn." + std::to_string(seed)).to_host<float>();
    TorchGenerator generator(seed);
    std::vector<float> drawn;
    for (int64_t count : {4, 1, 15, 16, 17, 3, 40, 333}) {
      for (float value : generator.randn(count)) drawn.push_back(value);
    }
    ASSERT_EQ(drawn.size(), wanted.size());
    for (size_t i = 0; i < drawn.size(); ++i) EXPECT_NEAR(drawn[i], wanted[i], 1e-6) << seed << ", value " << i;
  }
}

TEST(PictureNoise, BrownianNoiseIsTorchsdes) {
  const std::vector<float> times = expected().tensor("times").to_host<float>();
  const std::vector<double> sigmas(times.begin(), times.end());
  for (uint64_t seed : seeds) {
    const Tensor wanted = expected().tensor("tree." + std::to_string(seed));
    const flame::Shape shape{1, 4, 3, 2};
    const StepNoise noise =
        step_noise("dpmpp_2m_sde", std::span(&seed, 1), shape, sigmas, Device::cpu(), NoiseSource::comfy);
    for (int64_t k = 0; k < 7; ++k) {
      const bool last = k == 6;  // a longer way, over two of the others
      const Tensor drawn = noise(sigmas[last ? 0 : k], sigmas[last ? 2 : k + 1]);
      EXPECT_LT(distance(drawn, wanted.rows(k, 1).view(shape)), 1e-5) << seed << ", step " << k;
    }
  }
}

TEST(PictureNoise, AncestralNoiseIsThatOfTheNextSeed) {
  const uint64_t seed = 42;
  const flame::Shape shape{1, 4, 3, 2};
  const StepNoise noise =
      step_noise("euler_ancestral", std::span(&seed, 1), shape, {2, 1, 0}, Device::cpu(), NoiseSource::comfy);
  TorchGenerator next(43);
  for (int step = 0; step < 2; ++step) EXPECT_EQ(noise(2, 1).to_host<float>(), next.randn(24));
}

// Noise over both halves of a step makes the noise over the whole of it.
TEST(PictureNoise, OfAStepAgreesWithThatOfItsHalf) {
  const uint64_t seed = 5;
  const std::vector<double> sigmas = {4, 3, 2, 1, 0};
  for (NoiseSource source : {NoiseSource::philox, NoiseSource::comfy}) {
    const flame::Shape shape{1, 4, 40, 40};
    const auto begin = [&] {
      return step_noise("dpmpp_sde", std::span(&seed, 1), shape, sigmas, Device::cpu(), source);
    };
    const StepNoise noise = begin(), other = begin();
    const Tensor half = noise(4, 3), whole = noise(4, 2), next = noise(2, 1);
    EXPECT_LT(distance(other(4, 3), half), 1e-6);
    // cov(W(1) / 1, W(2) / sqrt 2) = 1 / sqrt 2, and nothing with what comes later.
    const auto correlation = [](const Tensor& a, const Tensor& b) {
      const std::vector<float> x = a.to_host<float>(), y = b.to_host<float>();
      double sum = 0;
      for (size_t i = 0; i < x.size(); ++i) sum += double{x[i]} * y[i];
      return sum / static_cast<double>(x.size());
    };
    EXPECT_NEAR(correlation(half, whole), std::sqrt(0.5), 0.05);
    EXPECT_NEAR(correlation(whole, whole), 1, 0.06);
    EXPECT_NEAR(correlation(whole, next), 0, 0.05);
  }
}

TEST(PictureNoise, SaysWhichThereAre) {
  EXPECT_EQ(parse_noise_source("comfy"), NoiseSource::comfy);
  EXPECT_THROW(parse_noise_source("gpu"), flame::Error);
}

}  // namespace
}  // namespace eri
