#include "flame/nn/layers.h"

#include <utility>

#include "flame/ops/conv.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/norm.h"
#include "flame/ops/pointwise.h"

namespace flame {
namespace {

int64_t size_or(int64_t size, int64_t found) { return size == any_size ? found : size; }

Tensor load_bias(const Scope& scope, int64_t out, Bias bias) {
  if (bias == Bias::none || (bias == Bias::if_there && !scope.has("bias"))) return {};
  return scope.weight("bias", {out});
}

Tensor load_matrix(const Scope& scope, const LinearSizes& sizes) {
  const Shape found = scope.shape("weight");
  const bool is_conv = found.rank() == 4 && found[2] == 1 && found[3] == 1;
  if (found.rank() != 2 && !is_conv) scope.misshapen("weight", "[out, in]");
  const Shape expected = found.with(0, size_or(sizes.out, found[0])).with(1, size_or(sizes.in, found[1]));
  return scope.weight("weight", expected).view({expected[0], expected[1]});
}

Tensor load_kernel(const Scope& scope, const ConvSizes& sizes) {
  const Shape found = scope.shape("weight");
  if (found.rank() != 4) scope.misshapen("weight", "[out, in, kernel, kernel]");
  const int64_t kernel = size_or(sizes.kernel, found[2]);
  return scope.conv_weight("weight", {size_or(sizes.out, found[0]), size_or(sizes.in, found[1]), kernel, kernel});
}

Tensor load_vector(const Scope& scope, std::string_view name, int64_t width) {
  const Shape found = scope.shape(name);
  if (found.rank() != 1) scope.misshapen(name, "[width]");
  return scope.weight(name, {size_or(width, found[0])});
}

// Of factors in f32 beside a weight of 16 bits: what the layer computes with. Their gradients are f32.
Adapter in_dtype_of(const Tensor& weight, const Adapter& adapter) {
  return {cast(adapter.down, weight.dtype()), cast(adapter.up, weight.dtype()), adapter.scale};
}

}  // namespace

Linear::Linear(const Scope& scope, const LinearSizes& sizes) : state_(std::make_shared<State>()) {
  state_->weight = load_matrix(scope, sizes);
  state_->out = state_->weight.dim(0);
  state_->in = state_->weight.dim(1);
  state_->bias = load_bias(scope, out(), sizes.bias);
  scope.registry().linears.emplace_back(scope.path(), *this);
}

Tensor Linear::operator()(const Tensor& x) const {
  const auto& [weight, bias, in, out, adapter] = *state_;
  require(weight.defined(), "Linear", "this layer's weight was released to another");
  if (!adapter) return linear(x, weight, bias);
  const auto [down, up, scale] = in_dtype_of(weight, *adapter);
  return lora_linear(x, weight, bias, down, up, scale);
}

Tensor Linear::release_weight() const { return std::exchange(state_->weight, {}); }

Conv2d::Conv2d(const Scope& scope, const ConvSizes& sizes) : state_(std::make_shared<State>()) {
  state_->weight = load_kernel(scope, sizes);
  state_->bias = load_bias(scope, out(), sizes.bias);
  state_->stride = sizes.stride;
  state_->padding = sizes.padding;
  scope.registry().convs.emplace_back(scope.path(), *this);
}

Tensor Conv2d::operator()(const Tensor& x) const {
  const auto& [weight, bias, stride, padding, adapter] = *state_;
  const Tensor y = conv2d(x, weight, bias, stride, padding);
  if (!adapter) return y;
  const auto [down, up, scale] = in_dtype_of(weight, *adapter);
  const Tensor low = conv2d(x, down, {}, stride, padding);  // [N, H', W', rank]
  return y + conv2d(low * scale, up);
}

LayerNorm::LayerNorm(const Scope& scope, float eps, int64_t width)
    : weight_(load_vector(scope, "weight", width)), bias_(scope.weight("bias", weight_.shape())), eps_(eps) {}

Tensor LayerNorm::operator()(const Tensor& x) const { return layer_norm(x, weight_, bias_, eps_); }

RmsNorm::RmsNorm(const Scope& scope, float eps, int64_t width)
    : weight_(load_vector(scope, "weight", width)), eps_(eps) {}

Tensor RmsNorm::operator()(const Tensor& x) const { return rms_norm(x, weight_, eps_); }

GroupNorm::GroupNorm(const Scope& scope, float eps, int64_t channels, int groups)
    : weight_(load_vector(scope, "weight", channels)),
      bias_(scope.weight("bias", weight_.shape())),
      groups_(groups),
      eps_(eps) {}

Tensor GroupNorm::operator()(const Tensor& x) const { return group_norm(x, groups_, weight_, bias_, eps_); }
Tensor GroupNorm::silu(const Tensor& x) const { return group_norm_silu(x, groups_, weight_, bias_, eps_); }

Embedding::Embedding(const Scope& scope, std::string_view name) {
  const Shape found = scope.shape(name);
  if (found.rank() != 2) scope.misshapen(name, "[count, width]");
  table_ = scope.weight(name, found);
}

Tensor Embedding::operator()(const Tensor& ids) const { return embedding(table_, ids); }

void Module::forget(const std::function<bool(const std::string& name)>& given_away) {
  std::erase_if(registry_->weights, [&](const auto& entry) { return given_away(entry.first); });
}

int64_t Module::parameter_count() const {
  int64_t count = 0;
  for (const auto& [name, weight] : state_dict()) count += weight.numel();
  return count;
}

}  // namespace flame
