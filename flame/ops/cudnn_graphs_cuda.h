#pragma once

#include <string>

#include "flame/ops/conv_kernels.h"

// cuDNN behind plain shapes and addresses. Each function puts its work on the device's stream and returns an empty
// text, or does nothing and returns why cuDNN has no plan for it. The first call of a kind searches for the fastest
// plan (the first one in a captured graph or where results must repeat); plans are kept in flame/device/plan_cache.h.
namespace flame::cuda::cudnn {

// Opens the library and has it choose a plan, without running it.
void warm_up(Device device);

enum class Pass { forward, input_gradient, weight_gradient };

// One pass of a convolution: x, weight, bias (forward; or null) and y are dense, of one dtype, at addresses that 16
// divides, and the one that the pass is named after is written. f32 is rounded to TF32.
const std::string& convolution(Device device, Pass pass, const Convolution& conv, DType dtype, void* x, void* weight,
                               void* bias, void* y);

// softmax(q k' / sqrt(width)) v for each head; causal: query i sees the keys 0..i.
struct Attention {
  DType dtype;  // f16 or bf16
  int64_t batch, heads, queries, keys, width;
  bool causal;
};

// A [batch, tokens, heads, width] matrix within any buffer: address and strides, in elements, multiples of 16 bytes.
struct Heads {
  void* data;
  int64_t sample, token, head;
};

// Writes out and log_sum [batch, heads, queries], f32: the natural logarithm of a row's sum of exponentiated scores.
const std::string& attention(Device device, const Attention& attention, const Heads& q, const Heads& k, const Heads& v,
                             const Heads& out, void* log_sum);
// Writes dq, dk and dv. Where results must repeat it takes 2 batch * heads * queries * keys bytes of memory.
const std::string& attention_gradient(Device device, const Attention& attention, const Heads& q, const Heads& k,
                                      const Heads& v, const Heads& out, const Heads& dy, void* log_sum, const Heads& dq,
                                      const Heads& dk, const Heads& dv);

}  // namespace flame::cuda::cudnn
