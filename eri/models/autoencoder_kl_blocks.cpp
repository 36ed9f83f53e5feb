#include "eri/models/autoencoder_kl_blocks.h"

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri::vae {

using namespace flame;

namespace {

constexpr float kEps = 1e-6f;

ConvSizes conv3x3(int64_t in, int64_t out) { return {.in = in, .out = out, .kernel = 3, .padding = 1}; }

std::vector<Level> make_levels(const Scope& scope, int64_t& channels, Level::Way way) {
  std::vector<Level> levels;
  const int count = scope.count();
  for (int i = 0; i < count; ++i)
    levels.emplace_back(scope / (way == Level::Way::up ? count - 1 - i : i), channels, way);
  return levels;
}

}  // namespace

ResBlock::ResBlock(const Scope& scope, int64_t channels)
    : norm1(scope / "norm1", kEps, channels),
      conv1(scope / "conv1", conv3x3(channels, any_size)),
      norm2(scope / "norm2", kEps, out()),
      conv2(scope / "conv2", conv3x3(out(), out())) {
  if (channels != out()) skip.emplace(scope / "nin_shortcut", ConvSizes{.in = channels, .out = out(), .kernel = 1});
}

Tensor ResBlock::operator()(const Tensor& x) const {
  const Tensor h = conv2(norm2.silu(conv1(norm1.silu(x))));  // [N, H, W, out]
  return (skip ? (*skip)(x) : x) + h;
}

Middle::Middle(const Scope& scope, int64_t channels)
    : block1(scope / "block_1", channels),
      norm(scope / "attn_1" / "norm", kEps, channels),
      attention(scope / "attn_1", {"q", "k", "v", "proj_out"}, {.width = channels, .heads = 1}),
      block2(scope / "block_2", channels) {}

Tensor Middle::operator()(const Tensor& x) const {
  const Tensor h = block1(x);
  const Tensor tokens = norm(h).reshape({h.dim(0), h.dim(1) * h.dim(2), h.dim(3)});  // [N, H W, C]
  return block2(h + attention(tokens).reshape(h.shape()));
}

Level::Level(const Scope& scope, int64_t& channels, Way way) {
  const Scope blocks_scope = scope / "block";
  for (int i = 0; i < blocks_scope.count(); ++i) {
    blocks.emplace_back(blocks_scope / i, channels);
    channels = blocks.back().out();
  }
  if (way == Way::up && scope.has("upsample"))
    twofold.emplace(scope / "upsample" / "conv", conv3x3(channels, channels));
  if (way == Way::down && scope.has("downsample"))  // SDXL's pads only below and to the right
    halve.emplace(scope / "downsample" / "conv",
                  ConvSizes{.in = channels, .out = channels, .kernel = 3, .stride = 2, .padding = {0, 0, 1, 1}});
}

Tensor Level::operator()(Tensor h) const {
  for (const ResBlock& block : blocks) h = block(h);
  if (halve) return (*halve)(h);                          // [N, H/2, W/2, C]
  if (twofold) return (*twofold)(upsample_nearest2x(h));  // [N, 2H, 2W, C]
  return h;
}

Encoder::Encoder(const Scope& scope)
    : conv_in(scope / "conv_in", conv3x3(any_size, any_size)),
      channels(conv_in.out()),
      levels(make_levels(scope / "down", channels, Level::Way::down)),
      middle(scope / "mid", channels),
      norm_out(scope / "norm_out", kEps, channels),
      conv_out(scope / "conv_out", conv3x3(channels, any_size)) {}

Tensor Encoder::operator()(const Tensor& image) const {
  Tensor h = conv_in(image);
  for (const Level& level : levels) h = level(h);
  return conv_out(norm_out.silu(middle(h)));
}

int64_t Encoder::size_multiple() const {
  int64_t multiple = 1;
  for (const Level& level : levels) multiple *= level.halve ? 2 : 1;
  return multiple;
}

Decoder::Decoder(const Scope& scope)
    : conv_in(scope / "conv_in", conv3x3(any_size, any_size)),
      channels(conv_in.out()),
      middle(scope / "mid", channels),
      levels(make_levels(scope / "up", channels, Level::Way::up)),
      norm_out(scope / "norm_out", kEps, channels),
      conv_out(scope / "conv_out", conv3x3(channels, 3)) {}

Tensor Decoder::operator()(const Tensor& latents) const {
  Tensor h = middle(conv_in(latents));
  for (const Level& level : levels) h = level(h);
  return conv_out(norm_out.silu(h));
}

}  // namespace eri::vae
