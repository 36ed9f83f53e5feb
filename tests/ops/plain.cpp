#include "plain.h"

#include <cmath>

#include "flame/ops/attention.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace flame::test {

Tensor plain_upsample(const Tensors& inputs) {
  const Tensor& x = inputs[0];
  const int64_t n = x.dim(0), h = x.dim(1), w = x.dim(2), c = x.dim(3);
  const Tensor wide = repeat(x.reshape({n, h, w, 1, c}), 3, 2).reshape({n, h, 1, 2 * w, c});
  return repeat(wide, 2, 2).reshape({n, 2 * h, 2 * w, c});
}

Tensor plain_embedding(const Tensors& x) {
  const Tensor ids = x[1].to(DType::f32), rows = Tensor::arange(x[0].dim(0), DType::f32, ids.device());
  const Tensor chosen = equal(ids.reshape({ids.numel(), 1}), rows).to(x[0].dtype());
  return chosen.matmul(x[0]).reshape(ids.shape().inserted(ids.rank(), x[0].dim(1)));
}

Tensor plain_conv3x3(const Tensor& x, const Tensor& weight, int padding) {
  const Tensor padded = pad(pad(x, 1, padding, padding), 2, padding, padding);
  const int64_t height = padded.dim(1) - 2, width = padded.dim(2) - 2;
  Tensor y;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      const Tensor tap = weight.narrow(1, i, 1).narrow(2, j, 1).reshape({weight.dim(0), weight.dim(3)});
      const Tensor part = linear(padded.narrow(1, i, height).narrow(2, j, width), tap);
      y = y.defined() ? y + part : part;
    }
  }
  return y;
}

Tensor plain_grouped_conv3x3(const Tensor& x, const Tensor& weight, int padding) {
  const int64_t in = x.dim(3) / 2, out = weight.dim(0) / 2;
  const auto half = [&](int64_t i) {
    return plain_conv3x3(narrow(x, 3, i * in, in), narrow(weight, 0, i * out, out), padding);
  };
  return concat({half(0), half(1)}, 3);
}

Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
  const auto heads = [](const Tensor& x) { return x.permute({0, 2, 1, 3}); };
  Tensor scores = heads(q).matmul(k.permute({0, 2, 3, 1})) / std::sqrt(static_cast<float>(q.dim(3)));
  if (causal) {
    const auto positions = [&](const Tensor& x) { return Tensor::arange(x.dim(1), DType::f32, x.device()); };
    const Tensor seen = positions(k) <= positions(q).reshape({q.dim(1), 1});
    scores = where(seen, scores, Tensor::full({}, -60, scores.dtype(), scores.device()));
  }
  return heads(softmax(scores).matmul(heads(v)));
}

Tensor plain_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) {
  const Tensor centered = x - mean(x, {-1}, true);
  return centered / sqrt(mean(centered * centered, {-1}, true) + eps) * weight + bias;
}

Tensor plain_group_norm(const Tensor& x, int groups, const Tensor& weight, const Tensor& bias, float eps) {
  const int64_t channels = x.dim(-1), positions = x.numel() / x.dim(0) / channels;
  const Tensor split = x.reshape({x.dim(0), positions, groups, channels / groups});
  const Tensor centered = split - mean(split, {1, 3}, true);
  const Tensor normed = centered / sqrt(mean(centered * centered, {1, 3}, true) + eps);
  return normed.reshape(x.shape()) * weight + bias;
}

}  // namespace flame::test
