#include "eri/models/t5_encoder.h"

#include <algorithm>
#include <cmath>

#include "eri/models/weight_files.h"
#include "flame/ops/attention.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"

namespace eri {

using namespace flame;

namespace {

LinearSizes without_bias(int64_t in, int64_t out = any_size) { return {.in = in, .out = out, .bias = Bias::none}; }

// Where f16 would not reach.
Scope wide(const Scope& scope) { return scope.dtype() == DType::f16 ? scope.in(DType::f32) : scope; }

}  // namespace

int32_t relative_position_bucket(int64_t offset, int64_t count) {
  constexpr double farthest = 128;
  const int64_t half = count / 2, exact = half / 2, distance = std::abs(offset);
  int64_t bucket = distance;
  if (distance >= exact) {
    // In f32, as transformers has it: at powers of two the result depends on it.
    const float logarithm = std::log(static_cast<float>(distance) / static_cast<float>(exact));
    const float range = static_cast<float>(std::log(farthest / static_cast<double>(exact)));
    bucket = std::min(half - 1, exact + static_cast<int64_t>(logarithm / range * static_cast<float>(half - exact)));
  }
  return static_cast<int32_t>(bucket + (offset > 0 ? half : 0));
}

T5Encoder::Layer::Layer(const Scope& scope, int64_t width, int64_t heads)
    : dtype_(scope.dtype()),
      heads_(heads),
      norm1_(scope.in(DType::f32) / "layer.0.layer_norm", 1e-6f, width),
      q_(scope / "layer.0.SelfAttention.q", without_bias(width)),
      k_(scope / "layer.0.SelfAttention.k", without_bias(width, q_.out())),
      v_(scope / "layer.0.SelfAttention.v", without_bias(width, q_.out())),
      o_(scope / "layer.0.SelfAttention.o", without_bias(q_.out(), width)),
      norm2_(scope.in(DType::f32) / "layer.1.layer_norm", 1e-6f, width),
      gate_(scope / "layer.1.DenseReluDense.wi_0", without_bias(width)),
      value_(scope / "layer.1.DenseReluDense.wi_1", without_bias(width, gate_.out())),
      out_(wide(scope) / "layer.1.DenseReluDense.wo", without_bias(gate_.out(), width)) {
  require(q_.out() % heads == 0, "T5Encoder", "expected an attention of ", heads, " heads, as many as ",
          "relative_attention_bias has, got a width of ", q_.out());
}

Tensor T5Encoder::Layer::operator()(Tensor h, const Tensor& bias) const {
  h = h + attend(norm1_(h).to(dtype_), bias);     // [N, T, width]
  return h + feed_forward(norm2_(h).to(dtype_));  // [N, T, width]
}

Tensor T5Encoder::Layer::attend(const Tensor& x, const Tensor& bias) const {
  const auto split = [this](const Tensor& y) {
    return y.reshape({y.dim(0), y.dim(1), heads_, y.dim(2) / heads_}).to(DType::f32);  // [N, T, heads, D]
  };
  const Tensor q = split(q_(x)).permute({0, 2, 1, 3}), k = split(k_(x)).permute({0, 2, 3, 1});
  const Tensor v = split(v_(x)).permute({0, 2, 1, 3});
  const Tensor seen = softmax(q.matmul(k) + bias).matmul(v);  // [N, heads, T, D]; T5 does not divide by sqrt(D)
  return o_(seen.permute({0, 2, 1, 3}).reshape({x.dim(0), x.dim(1), q_.out()}).to(dtype_)).to(DType::f32);
}

Tensor T5Encoder::Layer::feed_forward(const Tensor& x) const {
  const Tensor h = gelu_tanh(gate_(x).to(DType::f32)) * value_(x).to(DType::f32);  // [N, T, inner]
  return out_(h.to(out_.weight().dtype())).to(DType::f32);
}

T5Encoder::T5Encoder(const Scope& scope)
    : Module(scope),
      tokens_(scope / (scope.has("shared") ? "shared" : "encoder.embed_tokens")),
      buckets_(scope.in(DType::f32) / "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
      final_norm_(scope.in(DType::f32) / "encoder.final_layer_norm", 1e-6f, tokens_.width()) {
  const Scope blocks = scope / "encoder.block";
  for (int i = 0; i < blocks.count(); ++i) layers_.emplace_back(blocks / i, width(), buckets_.width());
}

T5Encoder T5Encoder::from_safetensors(const std::filesystem::path& path, Device device, DType dtype) {
  const WeightFiles files(path);
  if (!files.has_below("encoder.block."))
    fail(files.path().string(), ": this is no T5 text encoder: no tensor's name begins with encoder.block.");
  return T5Encoder(Scope(*files.below(""), dtype, device));
}

Tensor T5Encoder::position_bias(int64_t length) const {
  std::vector<int32_t> buckets;
  for (int64_t query = 0; query < length; ++query) {
    for (int64_t key = 0; key < length; ++key)
      buckets.push_back(relative_position_bucket(key - query, buckets_.count()));
  }
  const Tensor bias = buckets_(Tensor::from(buckets, {length, length}, device()));  // [T, T, heads]
  return bias.permute({2, 0, 1}).reshape({1, buckets_.width(), length, length});
}

Tensor T5Encoder::encode(const Tensor& ids) const {
  require(ids.rank() == 2 && ids.dtype() == DType::i32 && ids.dim(1) > 0, "T5Encoder", "expected ids [N, T] i32, got ",
          ids.shape(), " ", ids.dtype());
  const Tensor bias = position_bias(ids.dim(1));
  Tensor h = tokens_(ids).to(DType::f32);  // [N, T, width]
  for (const Layer& layer : layers_) h = layer(h, bias);
  return final_norm_(h);
}

}  // namespace eri
