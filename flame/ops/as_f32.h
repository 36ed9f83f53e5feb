#pragma once

#include "flame/core/tensor.h"
#include "flame/ops/layout.h"

// Kernels that compute in f32 only take tensors of any floating dtype through these.
namespace flame {

// x as f32: itself or a copy, unknown to autograd.
inline Tensor as_f32(const Tensor& x) { return x.defined() ? cast(x.detach(), DType::f32) : x; }

// Calls f(an f32 tensor) to write `out`, which is converted after that if it is stored otherwise.
template <class F>
void write_as_f32(const Tensor& out, const F& f) {
  if (!out.defined() || out.dtype() == DType::f32) return f(out);
  const Tensor wide = Tensor::empty(out.shape(), DType::f32, out.device());
  f(wide);
  out.copy_from(cast(wide, out.dtype()));
}

}  // namespace flame
