#pragma once

#include "flame/core/tensor.h"

// Attention of many queries to a few keys, all of which lie in shared memory: SDXL's 77 tokens of text. Scores never
// leave the registers. f16 and bf16; scores, sums and products are added up in f32.
//
// For the dispatch of attention: where cross_attention_fits(q, k, causal), call cross_attention and
// cross_attention_gradient in place of cuDNN. The gradient gives the same bits in every run and does not read `out`.
namespace flame::cuda {

// [N, T, heads, 64]: elements from one sample and from one token to the next; heads lie side by side. The data is
// aligned to 16 bytes, the distances are multiples of 8.
struct HeadRows {
  void* data = nullptr;
  int64_t sample = 0, token = 0;
};

struct CrossAttention {
  Device device;
  DType dtype;  // f16 or bf16
  int64_t batch, heads, queries, keys;
  float scale;  // of the scores
  HeadRows q, k, v;

  static constexpr int64_t width = 64, most_keys = 128;
};

// How the work is cut: a block of 32 * warps threads takes `rows` queries of one head. It changes speed and, of dk and
// dv, the order of sums. `rows` is a multiple of 16 * warps.
struct CrossAttentionCut {
  int warps;
  int64_t rows;
};
CrossAttentionCut forward_cut(const CrossAttention& problem);
CrossAttentionCut gradient_cut(const CrossAttention& problem);

// log_sum f32 [N, heads, Tq]: the log of the sum of a row's exponentiated scores.
void cross_attention(const CrossAttention& problem, const HeadRows& out, float* log_sum, CrossAttentionCut cut);

// Those of dq, dk, dv that have no data are not computed. dk and dv need a workspace of this many floats.
int64_t gradient_workspace(const CrossAttention& problem, CrossAttentionCut cut);
void cross_attention_gradient(const CrossAttention& problem, const float* log_sum, const HeadRows& dout,
                              const HeadRows& dq, const HeadRows& dk, const HeadRows& dv, float* workspace,
                              CrossAttentionCut cut);

// Whether the card has the shared memory, and the keys are few enough.
bool cross_attention_fits(Device device, int64_t keys);

// The same on tensors, as flame/ops/attention_kernels.h has it: q [N, Tq, heads, 64], k and v [N, Tk, heads, 64].
bool cross_attention_fits(const Tensor& q, const Tensor& k, bool causal);
void cross_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& log_sum);
void cross_attention_gradient(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_sum,
                              const Tensor& dy, const Tensor& dq, const Tensor& dk, const Tensor& dv);

}  // namespace flame::cuda
