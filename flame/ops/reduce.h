#pragma once

#include <vector>

#include "flame/core/tensor.h"

// Sums are taken in a fixed order in fp32 or better: the same bits for any number of threads.
namespace flame {

Tensor sum(const Tensor& x, const std::vector<int>& axes, bool keepdim = false);
Tensor mean(const Tensor& x, const std::vector<int>& axes, bool keepdim = false);
Tensor sum(const Tensor& x);  // of everything: shape []
Tensor mean(const Tensor& x);

// The sum of x over the axes along which `shape` was broadcast to x's shape: the gradient of broadcasting. No autograd.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace flame
