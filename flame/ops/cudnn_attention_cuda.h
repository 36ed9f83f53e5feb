#pragma once

#include "flame/core/tensor.h"

// Attention by cuDNN, with the arguments of attention_kernels.h.
namespace flame::cuda {

// Whether cuDNN's kernels are made for this: f16 or bf16, heads of 32 to 128 in steps of 8, 16 tokens and more.
bool cudnn_attention_fits(const Tensor& q, const Tensor& k);

// False if cuDNN cannot after all, for want of a plan, of addresses that 16 divides or, for the gradient, of v or out:
// then compute it otherwise.
bool cudnn_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
                     const Tensor& log_sum);
bool cudnn_attention_gradient(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
                              const Tensor& log_sum, const Tensor& dy, const Tensor& dq, const Tensor& dk,
                              const Tensor& dv);

}  // namespace flame::cuda
