#include "eri/models/unet_blocks.h"

#include <cmath>

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

using namespace flame;

constexpr float kResEps = 1e-5f, kTransformerEps = 1e-6f;

// PyTorch multiplies by the inverse of a count on a GPU, which rounds once more: with a t of 1000 the last bit of a
// frequency is visible in the wave. Its builds for a CPU differ in that of a few among themselves, by their exp.
Tensor make_frequencies(int64_t count, Device device, Frequencies which) {
  const bool as_on_gpu = which == Frequencies::as_on_gpu;
  std::vector<float> exponents(static_cast<size_t>(count));
  const auto all = static_cast<float>(count);
  for (int64_t k = 0; k < count; ++k) {
    const float exponent = -std::log(10000.0f) * static_cast<float>(k);
    exponents[k] = as_on_gpu ? exponent * (1 / all) : exponent / all;
  }
  return exp(Tensor::from(exponents, {1, count}, as_on_gpu ? device : Device::cpu())).to(device);
}

Frequencies as_on(Device device) { return device.is_cuda() ? Frequencies::as_on_gpu : Frequencies::as_on_cpu; }

ConvSizes conv3x3(int64_t in, int64_t out) { return {.in = in, .out = out, .kernel = 3, .padding = 1}; }

std::optional<Conv2d> make_skip(const Scope& scope, int64_t in, int64_t out) {
  if (in == out) return std::nullopt;
  return Conv2d(scope, {.in = in, .out = out, .kernel = 1});
}

}  // namespace

Sinusoids::Sinusoids(int64_t width, Device device, std::optional<Frequencies> which)
    : frequencies_(make_frequencies(width / 2, device, which.value_or(as_on(device)))) {}

Tensor Sinusoids::operator()(const Tensor& x) const {
  const Tensor angles = x.reshape({x.numel(), 1}) * frequencies_;  // [N, width / 2]
  return concat({cos(angles), sin(angles)}, 1);
}

EmbeddingMlp::EmbeddingMlp(const Scope& scope, const LinearSizes& sizes)
    : first_(scope / 0, sizes), second_(scope / 2, {.in = first_.out(), .out = sizes.out}) {}

Tensor EmbeddingMlp::operator()(const Tensor& x) const { return second_(silu(first_(x))); }

ResBlock::ResBlock(const Scope& scope, int64_t channels, int64_t embedding_width)
    : norm1_(scope / "in_layers" / 0, kResEps, channels),
      conv1_(scope / "in_layers" / 2, conv3x3(channels, any_size)),
      embed_(scope / "emb_layers" / 1, {.in = embedding_width, .out = out()}),
      norm2_(scope / "out_layers" / 0, kResEps, out()),
      conv2_(scope / "out_layers" / 3, conv3x3(out(), out())),
      skip_(make_skip(scope / "skip_connection", channels, out())) {}

Tensor ResBlock::operator()(const Tensor& x, const Condition& condition) const {
  Tensor h = conv1_(norm1_.silu(x));  // [N, H, W, out]
  h = h + embed_(condition.embedding).reshape({x.dim(0), 1, 1, out()});
  h = conv2_(norm2_.silu(h));
  return (skip_ ? (*skip_)(x) : x) + h;
}

TransformerBlock::TransformerBlock(const Scope& scope, int64_t width, int64_t context_width, int64_t head_width)
    : norm1_(scope / "norm1", 1e-5f, width),
      norm2_(scope / "norm2", 1e-5f, width),
      norm3_(scope / "norm3", 1e-5f, width),
      self_(scope / "attn1", {"to_q", "to_k", "to_v", "to_out.0"},
            {.width = width, .heads = width / head_width, .bias = Bias::none}),
      cross_(scope / "attn2", {"to_q", "to_k", "to_v", "to_out.0"},
             {.width = width, .heads = width / head_width, .context = context_width, .bias = Bias::none}),
      feed_forward_(scope / "ff", width) {}

Tensor TransformerBlock::operator()(Tensor x, const Tensor& context) const {
  x = x + self_(norm1_(x));
  x = x + cross_(norm2_(x), context);
  return x + feed_forward_(norm3_(x));
}

SpatialTransformer::SpatialTransformer(const Scope& scope, int64_t channels, int64_t context_width, int64_t head_width)
    : norm_(scope / "norm", kTransformerEps, channels),
      proj_in_(scope / "proj_in", {.in = channels, .out = channels}),
      proj_out_(scope / "proj_out", {.in = channels, .out = channels}) {
  const Scope blocks = scope / "transformer_blocks";
  const int depth = blocks.count();
  for (int i = 0; i < depth; ++i) blocks_.emplace_back(blocks / i, channels, context_width, head_width);
}

Tensor SpatialTransformer::operator()(const Tensor& x, const Condition& condition) const {
  const int64_t n = x.dim(0), tokens = x.dim(1) * x.dim(2), channels = x.dim(3);
  Tensor h = proj_in_(norm_(x).reshape({n, tokens, channels}));  // [N, H W, C]
  for (const TransformerBlock& block : blocks_) h = block(h, condition.context);
  return x + proj_out_(h).reshape(x.shape());
}

}  // namespace eri
