#pragma once

#include "flame/core/tensor.h"

namespace flame {

struct GemmOptions {
  bool transpose_a = false;
  bool transpose_b = false;
  float alpha = 1;
  bool accumulate = false;  // add to c; else c is only written
};

// c = alpha a b + bias in place, or c += that. a [..., m, k], b [..., k, n] (or transposed), c [..., m, n], bias [n] or
// none; leading extents broadcast to c's. a, b and bias have one floating dtype, c has that or f32. Unknown to
// autograd.
void gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options = {}, const Tensor& bias = {});

}  // namespace flame
