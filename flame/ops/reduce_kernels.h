#pragma once

#include "flame/core/tensor.h"

namespace flame {

// A tensor seen as [outer, count, inner] whose middle is summed away, or comes into being by repetition.
struct Middle {
  int64_t outer, count, inner;
};

}  // namespace flame

namespace flame::cpu {
void sum_middle(const Tensor& x, const Tensor& y, const Middle& m, double scale);     // y = scale * sum
void spread_middle(const Tensor& y, const Tensor& x, const Middle& m, double scale);  // x = scale * y, repeated
}  // namespace flame::cpu

namespace flame::cuda {
void sum_middle(const Tensor& x, const Tensor& y, const Middle& m, double scale);
void spread_middle(const Tensor& y, const Tensor& x, const Middle& m, double scale);
}  // namespace flame::cuda
