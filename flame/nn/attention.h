#pragma once

#include "flame/nn/layers.h"

namespace flame {

// Multi-head attention from x to a context, or to x itself.
class Attention {
 public:
  struct Names {
    const char *q, *k, *v, *out;
  };
  struct Sizes {
    int64_t width, heads;
    int64_t context = any_size;  // the context's width; any_size: x's
    Bias bias = Bias::required;  // of q, k and v; out always has one
  };

  Attention(const Scope& scope, const Names& names, const Sizes& sizes);
  Tensor operator()(const Tensor& x, const Tensor& context) const;  // [N, T, width], [N, S, C] -> [N, T, width]
  Tensor operator()(const Tensor& x) const { return (*this)(x, x); }
  Tensor causal(const Tensor& x) const;  // position i sees positions 0..i

  const Linear& q() const { return q_; }
  const Linear& k() const { return k_; }
  const Linear& v() const { return v_; }
  const Linear& out() const { return out_; }

 private:
  Tensor attend(const Tensor& x, const Tensor& context, bool causal) const;

  Linear q_, k_, v_, out_;
  int64_t heads_;
};

// Two linear layers with h * gelu(gate) between them, as in diffusion transformers: net.0.proj and net.2.
class GegluFeedForward {
 public:
  GegluFeedForward(const Scope& scope, int64_t width);
  Tensor operator()(const Tensor& x) const;
  const Linear& in() const { return in_; }
  const Linear& out() const { return out_; }

 private:
  Linear in_, out_;
};

}  // namespace flame
