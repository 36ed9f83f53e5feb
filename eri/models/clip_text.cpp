#include "eri/models/clip_text.h"

#include "eri/models/checkpoint.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace eri {

using namespace flame;

namespace {

constexpr int32_t kEnd = 49407;

// [N, T]: 1 where the first end token of each of N texts stands, at its first token where there is none, as in
// sd-scripts and ComfyUI; 0 elsewhere. `places` are 0 .. T - 1. The host does not look at the ids: a step that is
// captured encodes too.
Tensor first_ends(const Tensor& ids, const Tensor& places) {
  const auto number = [&](double value) { return Tensor::full({}, value, DType::f32, ids.device()); };
  const Tensor is_end = equal(ids, Tensor::full({}, kEnd, DType::i32, ids.device())).to(DType::f32);
  const Tensor is_not_after = (places.view({ids.dim(1), 1}) <= places).to(DType::f32);
  const Tensor ends_so_far = is_end.matmul(is_not_after);
  const Tensor before = sum(equal(ends_so_far, number(0)).to(DType::f32), {1}, true);  // the first end: T if none
  const Tensor first = where(before < number(static_cast<double>(ids.dim(1))), before, number(0));
  return equal(places, first).to(DType::f32);
}

}  // namespace

CLIPTextEncoder::Layer::Layer(const Scope& scope, int64_t width, int64_t head_width, Activation activation)
    : norm1_(scope / "layer_norm1", 1e-5f, width),
      attention_(scope / "self_attn", {"q_proj", "k_proj", "v_proj", "out_proj"},
                 {.width = width, .heads = width / head_width}),
      norm2_(scope / "layer_norm2", 1e-5f, width),
      fc1_(scope / "mlp" / "fc1", {.in = width}),
      fc2_(scope / "mlp" / "fc2", {.in = fc1_.out(), .out = width}),
      activation_(activation) {}

Tensor CLIPTextEncoder::Layer::operator()(Tensor x) const {
  x = x + attention_.causal(norm1_(x));
  const Tensor h = fc1_(norm2_(x));  // [N, T, 4 width]
  return x + fc2_(activation_ == Activation::gelu ? gelu(h) : quick_gelu(h));
}

CLIPTextEncoder::CLIPTextEncoder(const Scope& scope, Activation activation, int64_t head_width)
    : Module(scope),
      tokens_(scope / "text_model.embeddings.token_embedding"),
      positions_(scope / "text_model.embeddings.position_embedding"),
      places_(Tensor::arange(positions_.count(), DType::f32, scope.device())),
      final_norm_(scope / "text_model.final_layer_norm", 1e-5f, tokens_.width()) {
  const Scope layers = scope / "text_model.encoder.layers";
  for (int i = 0; i < layers.count(); ++i) layers_.emplace_back(layers / i, width(), head_width, activation);
  require(!layers_.empty(), "CLIPTextEncoder", "the checkpoint has no ", layers.path());
  if (scope.has("text_projection"))
    projection_.emplace(scope / "text_projection", LinearSizes{.in = width(), .bias = Bias::none});
}

CLIPTextEncoder CLIPTextEncoder::from_safetensors(const std::filesystem::path& path, TextPart part, Device device,
                                                  DType dtype) {
  return from_checkpoint(Checkpoint(path), part, device, dtype);
}

CLIPTextEncoder CLIPTextEncoder::from_checkpoint(const Checkpoint& checkpoint, TextPart part, Device device,
                                                 DType dtype) {
  const bool is_l = part == TextPart::clip_l;
  const auto weights = is_l ? checkpoint.clip_l() : checkpoint.clip_g();
  const Scope scope(*weights, dtype, device);
  CLIPTextEncoder encoder(scope, is_l ? Activation::quick_gelu : Activation::gelu);
  scope.require_finite();
  return encoder;
}

TextEncoding CLIPTextEncoder::encode(const Tensor& ids, bool pooled) const {
  require(ids.rank() == 2 && ids.dtype() == DType::i32 && ids.dim(1) <= max_tokens(), "CLIPTextEncoder",
          "expected ids [N, T] i32 with T at most ", max_tokens(), ", got ", ids.shape(), " ", ids.dtype());
  Tensor h = tokens_(ids) + positions_.table().rows(0, ids.dim(1));  // [N, T, width]
  for (size_t i = 0; i + 1 < layers_.size(); ++i) h = layers_[i](h);
  if (!pooled || !has_projection()) return {.hidden = h, .pooled = {}};
  return {.hidden = h, .pooled = pool(layers_.back()(h), ids)};
}

Tensor CLIPTextEncoder::pool(const Tensor& h, const Tensor& ids) const {
  const Tensor picks = first_ends(ids, places_.rows(0, ids.dim(1))).to(h.dtype());  // [N, T]
  const Tensor ends = picks.view({h.dim(0), 1, h.dim(1)}).matmul(h);                // [N, 1, width]
  return (*projection_)(final_norm_(ends.reshape({h.dim(0), h.dim(2)})));           // [N, projection]
}

}  // namespace eri
