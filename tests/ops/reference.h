#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "flame/autograd/tape.h"
#include "flame/core/tensor.h"
#include "flame/ops/layout.h"

// Plain definitions in double precision to compare ops with, and gradients by differences.
namespace reference {

struct Array {
  flame::Shape shape;
  std::vector<double> values;
  explicit Array(const flame::Shape& shape) : shape(shape), values(static_cast<size_t>(shape.numel())) {}
  explicit Array(const flame::Tensor& x) : Array(x.shape()) {
    const auto host = flame::cast(x.detach(), flame::DType::f32).to_host<float>();
    values.assign(host.begin(), host.end());
  }
  double& operator[](int64_t i) { return values[static_cast<size_t>(i)]; }
  double operator[](int64_t i) const { return values[static_cast<size_t>(i)]; }
};

// The largest difference, as a part of the largest expected value.
inline double error(const flame::Tensor& got, const Array& expected) {
  EXPECT_EQ(got.shape(), expected.shape);
  const Array values(got);
  double most = 0, size = 1e-30;
  for (size_t i = 0; i < values.values.size(); ++i) {
    if (std::isnan(values.values[i])) return NAN;
    most = std::max(most, std::abs(values.values[i] - expected.values[i]));
    size = std::max(size, std::abs(expected.values[i]));
  }
  return most / size;
}

using Function = std::function<Array(const std::vector<Array>& inputs)>;

// The gradient of sum(f(inputs) * dy) for inputs[which], by central differences.
inline Array gradient(const Function& f, std::vector<Array> inputs, size_t which, const Array& dy) {
  Array result(inputs[which].shape);
  const auto loss = [&] {
    const Array y = f(inputs);
    double sum = 0;
    for (size_t i = 0; i < y.values.size(); ++i) sum += y.values[i] * dy.values[i];
    return sum;
  };
  for (size_t i = 0; i < result.values.size(); ++i) {
    double& x = inputs[which].values[i];
    const double before = x, step = 1e-4;
    x = before + step;
    const double above = loss();
    x = before - step;
    result.values[i] = (above - loss()) / (2 * step);
    x = before;
  }
  return result;
}

using Op = std::function<flame::Tensor(const std::vector<flame::Tensor>& inputs)>;

// Compares op with f for every input alone trainable, and for all together. The tolerance is relative to the largest
// value.
inline void expect_same(const Op& op, const Function& f, const std::vector<flame::Tensor>& inputs, double tolerance) {
  std::vector<Array> arrays;
  for (const auto& input : inputs) arrays.emplace_back(input);
  const flame::Tensor plain = op(inputs);
  EXPECT_FALSE(plain.wants_grad());
  EXPECT_LT(error(plain, f(arrays)), tolerance);
  const flame::Tensor dy = flame::cast(flame::Tensor::randn(plain.shape()), plain.dtype());
  std::vector<Array> expected;
  for (size_t i = 0; i < inputs.size(); ++i) expected.push_back(gradient(f, arrays, i, Array(dy)));
  for (size_t which = 0; which <= inputs.size(); ++which) {  // the last time all of them
    flame::Tape tape;
    std::vector<flame::Tensor> leaves = inputs;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (i == which || which == inputs.size()) leaves[i] = inputs[i].requires_grad();
    flame::GradientMap gradients;
    tape.backward(op(leaves), dy, gradients);
    for (size_t i = 0; i < inputs.size(); ++i) {
      ASSERT_EQ(gradients.contains(leaves[i]), leaves[i].wants_grad());
      if (leaves[i].wants_grad()) {
        EXPECT_LT(error(gradients[leaves[i]], expected[i]), tolerance) << "input " << i << ", trainable " << which;
      }
    }
  }
}

// Bytes that op keeps for the backward pass if only the named inputs want gradients.
inline size_t bytes_kept(const Op& op, std::vector<flame::Tensor> inputs, const std::vector<size_t>& trainable) {
  flame::Tape tape;
  for (size_t i : trainable) inputs[i] = inputs[i].requires_grad();
  op(inputs);
  return tape.bytes_kept();
}

// The same bits from three runs, forward and backward.
inline void expect_repeatable(const Op& op, std::vector<flame::Tensor> inputs) {
  for (auto& input : inputs) input = input.requires_grad();
  std::vector<std::vector<float>> first;
  for (int run = 0; run < 3; ++run) {
    flame::Tape tape;
    const flame::Tensor y = op(inputs);
    flame::GradientMap gradients;
    tape.backward(y, flame::Tensor::ones(y.shape()), gradients);
    std::vector<std::vector<float>> results = {y.to_host<float>()};
    for (const auto& input : inputs) results.push_back(gradients[input].to_host<float>());
    if (run == 0) first = results;
    EXPECT_EQ(results, first);
  }
}

}  // namespace reference
