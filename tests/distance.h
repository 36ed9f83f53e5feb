#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "flame/core/tensor.h"

namespace flame {

// |got - expected| / |expected|, both in f32.
inline double distance(const Tensor& got, const Tensor& expected) {
  EXPECT_EQ(got.shape(), expected.shape());
  const std::vector<float> a = got.to_host<float>(), b = expected.to_host<float>();
  double error = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(error / norm);
}

}  // namespace flame
