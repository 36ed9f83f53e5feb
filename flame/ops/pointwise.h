#pragma once

#include "flame/core/tensor.h"

// One value at a time, with NumPy's broadcasting between two tensors. Arithmetic is fp32, storage is the tensors'
// dtype.
namespace flame {

Tensor operator+(const Tensor& a, const Tensor& b);
Tensor operator-(const Tensor& a, const Tensor& b);
Tensor operator*(const Tensor& a, const Tensor& b);
Tensor operator/(const Tensor& a, const Tensor& b);
Tensor operator+(const Tensor& a, float b);
Tensor operator-(const Tensor& a, float b);
Tensor operator*(const Tensor& a, float b);
Tensor operator/(const Tensor& a, float b);
Tensor operator+(float a, const Tensor& b);
Tensor operator-(float a, const Tensor& b);
Tensor operator*(float a, const Tensor& b);
Tensor operator/(float a, const Tensor& b);
Tensor operator-(const Tensor& a);
Tensor minimum(const Tensor& a, const Tensor& b);  // where equal, the gradient is halved, as in PyTorch
Tensor maximum(const Tensor& a, const Tensor& b);
Tensor pow(const Tensor& a, const Tensor& b);
Tensor pow(const Tensor& a, float exponent);

Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor erf(const Tensor& x);
Tensor sin(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor abs(const Tensor& x);
Tensor clamp(const Tensor& x, float low, float high);

Tensor sigmoid(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor silu(const Tensor& x);        // x sigmoid(x)
Tensor gelu(const Tensor& x);        // x Phi(x), the exact (erf) form
Tensor gelu_tanh(const Tensor& x);   // its approximation by tanh, gelu_new in T5 and GPT-2
Tensor quick_gelu(const Tensor& x);  // x sigmoid(1.702 x), as OpenAI's CLIP has it

// Comparisons give booleans and have no gradient.
Tensor operator<(const Tensor& a, const Tensor& b);
Tensor operator<=(const Tensor& a, const Tensor& b);
Tensor operator>(const Tensor& a, const Tensor& b);
Tensor operator>=(const Tensor& a, const Tensor& b);
Tensor equal(const Tensor& a, const Tensor& b);
Tensor not_equal(const Tensor& a, const Tensor& b);
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);  // a where the boolean condition holds, else b

// into += x in place; one shape, and one dtype or f32 for `into`; no autograd.
void accumulate(const Tensor& into, const Tensor& x);

}  // namespace flame
