#include "attention_noise.h"

#include <cmath>

#include "flame/ops/attention.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace flame::test {
namespace {

Tensor square(const Tensor& x) { return x * x; }
Tensor transposed(const Tensor& x) { return x.permute({0, 1, 3, 2}); }

Tensor scores(const Tensor& q, const Tensor& k, float scale, bool causal) {
  const Tensor all = scale * q.matmul(transposed(k));
  if (!causal) return all;
  const Tensor query = Tensor::arange(q.dim(2), DType::f32).reshape({q.dim(2), 1});
  return where(Tensor::arange(k.dim(2), DType::f32) <= query, all, Tensor::full({}, -60, DType::f32));
}

}  // namespace

AttentionNoise attention_noise(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy, bool causal,
                               double half_ulp) {
  constexpr float least = 0x1p-25f;  // half the smallest step of f16, the coarser of the two
  const auto variance = [&](const Tensor& x) {
    return (square(static_cast<float>(half_ulp) * x) + least * least) * (1.0f / 3);
  };
  const auto heads = [](const Tensor& x) { return x.permute({0, 2, 1, 3}); };
  const auto bound = [&](const Tensor& variance) { return 5 * sqrt(heads(variance)); };
  const Tensor query = heads(q), key = heads(k), value = heads(v), gradient = heads(dy);
  const float scale = 1 / std::sqrt(static_cast<float>(q.dim(3)));

  const Tensor p = softmax(scores(query, key, scale, causal)), out = p.matmul(value);
  const Tensor mean = sum(gradient * out, {-1}, true);
  const Tensor ds = scale * p * (gradient.matmul(transposed(value)) - mean);
  const Tensor of_p = variance(p), of_ds = variance(ds);
  // The mean moves a whole row of ds: by p times as much.
  const Tensor of_mean = scale * scale * sum(square(gradient) * variance(out), {-1}, true);
  return {bound(of_p.matmul(square(value))), bound(of_ds.matmul(square(key)) + of_mean * square(p.matmul(key))),
          bound(transposed(of_ds + of_mean * square(p)).matmul(square(query))),
          bound(transposed(of_p).matmul(square(gradient)))};
}

}  // namespace flame::test
