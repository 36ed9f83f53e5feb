#include "flame/nn/attention.h"

#include "flame/ops/attention.h"
#include "flame/ops/norm.h"

namespace flame {

Attention::Attention(const Scope& scope, const Names& names, const Sizes& sizes)
    : q_(scope / names.q, {.in = sizes.width, .out = sizes.width, .bias = sizes.bias}),
      k_(scope / names.k,
         {.in = sizes.context == any_size ? sizes.width : sizes.context, .out = sizes.width, .bias = sizes.bias}),
      v_(scope / names.v, {.in = k_.in(), .out = sizes.width, .bias = sizes.bias}),
      out_(scope / names.out, {.in = sizes.width, .out = sizes.width}),
      heads_(sizes.heads) {}

Tensor Attention::operator()(const Tensor& x, const Tensor& context) const { return attend(x, context, false); }
Tensor Attention::causal(const Tensor& x) const { return attend(x, x, true); }

Tensor Attention::attend(const Tensor& x, const Tensor& context, bool causal) const {
  const auto split = [this](const Tensor& y) {
    return y.reshape({y.dim(0), y.dim(1), heads_, y.dim(2) / heads_});  // [N, T, heads, D]
  };
  const Tensor y = scaled_dot_product_attention(split(q_(x)), split(k_(context)), split(v_(context)), causal);
  return out_(y.reshape({x.dim(0), x.dim(1), q_.out()}));
}

GegluFeedForward::GegluFeedForward(const Scope& scope, int64_t width)
    : in_(scope / "net" / 0 / "proj", {.in = width}), out_(scope / "net" / 2, {.in = in_.out() / 2, .out = width}) {}

Tensor GegluFeedForward::operator()(const Tensor& x) const { return out_(geglu(in_(x))); }

}  // namespace flame
