#pragma once

#include "flame/core/tensor.h"

// What is written comes last. log_sum [N, heads, Tq], f32, is the log of the sum of a row's exponentiated scores. Of
// the gradients, those that are no tensor are not computed; v and out may be none if neither dq nor dk is wanted.
namespace flame {

namespace cpu {
void softmax(const Tensor& x, const Tensor& y);
void softmax_gradient(const Tensor& y, const Tensor& dy, const Tensor& dx);
void log_softmax(const Tensor& x, const Tensor& y);
void log_softmax_gradient(const Tensor& y, const Tensor& dy, const Tensor& dx);
void attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
               const Tensor& log_sum);
void attention_gradient(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
                        const Tensor& log_sum, const Tensor& dy, const Tensor& dq, const Tensor& dk, const Tensor& dv);
}  // namespace cpu

namespace cuda {
void softmax(const Tensor& x, const Tensor& y);
void softmax_gradient(const Tensor& y, const Tensor& dy, const Tensor& dx);
void log_softmax(const Tensor& x, const Tensor& y);
void log_softmax_gradient(const Tensor& y, const Tensor& dy, const Tensor& dx);
void attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
               const Tensor& log_sum);
void attention_gradient(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
                        const Tensor& log_sum, const Tensor& dy, const Tensor& dq, const Tensor& dk, const Tensor& dv);
}  // namespace cuda

}  // namespace flame
