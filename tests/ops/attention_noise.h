#pragma once

#include "flame/core/tensor.h"

namespace flame::test {

struct AttentionNoise {
  Tensor out, dq, dk, dv;
};

// How far roundings on the way move attention's results in 16 bits, at most, in f32 where q, k, v and dy [N, T, heads,
// D] are: kernels round the weights and the gradients of the scores where they are factors, and read the rounded result
// for the latter. Each is off by up to half an ulp, evenly, which is a variance of a third of its square; a million
// results see 5 deviations of their sum. The rounding of the results themselves is not counted.
AttentionNoise attention_noise(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy, bool causal,
                               double half_ulp);

}  // namespace flame::test
