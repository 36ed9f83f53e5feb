#pragma once

#include "flame/ops/cross_attention_cuda.h"

// Attention whose operands lie in rows of wider buffers, heads of 64 side by side: f16 and bf16, any number of queries
// and keys. Few keys go to our own kernel, many to cuDNN; what neither takes is copied and computed as
// flame/ops/attention_kernels.h has it.
namespace flame::cuda {

struct AttentionRows {
  Device device;
  DType dtype;
  int64_t batch, heads, queries, keys;
  HeadRows q, k, v;
};

// log_sum f32 [batch, heads, queries]: the log of the sum of a row's exponentiated scores.
void attention_rows(const AttentionRows& problem, const HeadRows& out, const Tensor& log_sum);

struct AttentionRowsGradients {
  HeadRows dq, dk, dv;  // dk and dv are computed if both have data; they may be k and v themselves
};
void attention_rows_gradient(const AttentionRows& problem, const HeadRows& out, const Tensor& log_sum,
                             const HeadRows& dout, const AttentionRowsGradients& gradients);

}  // namespace flame::cuda
