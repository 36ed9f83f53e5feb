#pragma once

#include "flame/core/tensor.h"

namespace flame {

Tensor softmax(const Tensor& x);      // over the last axis
Tensor log_softmax(const Tensor& x);  // its logarithm, finite where that of softmax(x) is not

// softmax(q k' / sqrt(D)) v for each head: q [N, Tq, heads, D], k and v [N, Tk, heads, D] -> [N, Tq, heads, D].
// causal: query i sees keys 0..i. Keeps q, k, v, the result and one number a row, never the Tq x Tk scores.
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal = false);

}  // namespace flame
