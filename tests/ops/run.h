#pragma once

#include <gtest/gtest.h>

#include "catalogue.h"

// What the checks share: inputs, running a line forwards and backwards, comparing.
namespace flame::test {

std::vector<Line> lines_with(const std::function<bool(const Line&)>& property);
std::string test_name(const testing::TestParamInfo<Line>& info);

// The line's inputs, of other shapes where some are given. Always the same for the same line.
Tensors draw(const Line& line, const std::vector<Shape>& shapes = {});
Tensor draw_like(const Tensor& y);  // values in [-1, 1), where y is

using Wanted = std::vector<int>;  // the inputs that are trainable
Wanted trainable(const Line& line);
std::vector<Wanted> alone_and_together(const Line& line);

struct Outcome {
  Tensor y;
  Tensors gradients;  // one an input; none where it was not wanted
};
// f and its gradients for the gradient `dy` of the result (none: drawn).
Outcome evaluate(const std::function<Tensor(const Tensors&)>& f, Tensors inputs, const Wanted& wanted, Tensor dy = {});

std::vector<double> values(const Tensor& x);                              // of any dtype
Tensors stored_as(DType dtype, const Line& line, const Tensors& inputs);  // the trainable ones

// f(x) throws an error that begins with the line's op; `what` says what is wrong with x.
void expect_refused(const Line& line, const std::function<Tensor(const Tensors&)>& f, const Tensors& x,
                    const std::string& what);

// |got - expected| <= bound (|expected| + rms(expected)) + floor + noise, element by element, and the same shape.
testing::AssertionResult near(const Tensor& got, const Tensor& expected, double bound, double floor = 0,
                              const Tensor& noise = {});
testing::AssertionResult same_bits(const Tensor& got, const Tensor& expected);

}  // namespace flame::test
