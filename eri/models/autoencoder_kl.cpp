#include "eri/models/autoencoder_kl.h"

#include "eri/models/checkpoint.h"
#include "flame/nn/attention.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {

using namespace flame;

namespace {

constexpr float kEps = 1e-6f;

ConvSizes conv3x3(int64_t in, int64_t out) { return {.in = in, .out = out, .kernel = 3, .padding = 1}; }

class ResBlock {
 public:
  ResBlock(const Scope& scope, int64_t channels)
      : norm1_(scope / "norm1", kEps, channels),
        conv1_(scope / "conv1", conv3x3(channels, any_size)),
        norm2_(scope / "norm2", kEps, out()),
        conv2_(scope / "conv2", conv3x3(out(), out())) {
    if (channels != out()) skip_.emplace(scope / "nin_shortcut", ConvSizes{.in = channels, .out = out(), .kernel = 1});
  }

  Tensor operator()(const Tensor& x) const {
    const Tensor h = conv2_(norm2_.silu(conv1_(norm1_.silu(x))));  // [N, H, W, out]
    return (skip_ ? (*skip_)(x) : x) + h;
  }
  int64_t out() const { return conv1_.out(); }

 private:
  GroupNorm norm1_;
  Conv2d conv1_;
  GroupNorm norm2_;
  Conv2d conv2_;
  std::optional<Conv2d> skip_;
};

// Residual blocks one after the other; `channels` follows them.
class ResBlocks {
 public:
  ResBlocks(const Scope& scope, int64_t& channels) {
    for (int i = 0; i < scope.count(); ++i) {
      blocks_.emplace_back(scope / i, channels);
      channels = blocks_.back().out();
    }
  }
  Tensor operator()(Tensor h) const {
    for (const ResBlock& block : blocks_) h = block(h);
    return h;
  }

 private:
  std::vector<ResBlock> blocks_;
};

// Where every position sees every other: a residual block, single-head attention, a residual block.
class Middle {
 public:
  Middle(const Scope& scope, int64_t channels)
      : block1_(scope / "block_1", channels),
        norm_(scope / "attn_1" / "norm", kEps, channels),
        attention_(scope / "attn_1", {"q", "k", "v", "proj_out"}, {.width = channels, .heads = 1}),
        block2_(scope / "block_2", channels) {}

  Tensor operator()(const Tensor& x) const {
    const Tensor h = block1_(x);
    const Tensor tokens = norm_(h).reshape({h.dim(0), h.dim(1) * h.dim(2), h.dim(3)});  // [N, H W, C]
    return block2_(h + attention_(tokens).reshape(h.shape()));
  }

 private:
  ResBlock block1_;
  GroupNorm norm_;
  Attention attention_;
  ResBlock block2_;
};

// The levels 0, 1, .. of an encoder; a decoder has the same, from the last to the first.
template <class Level>
std::vector<Level> make_levels(const Scope& scope, int64_t& channels, bool reversed = false) {
  std::vector<Level> levels;
  const int count = scope.count();
  for (int i = 0; i < count; ++i) levels.emplace_back(scope / (reversed ? count - 1 - i : i), channels);
  return levels;
}

// SDXL's encoder pads only below and to the right before it halves the size.
Tensor pad_end(const Tensor& x) { return pad(pad(x, 1, 0, 1), 2, 0, 1); }

}  // namespace

class VAE::Encoder {
 public:
  explicit Encoder(const Scope& scope)
      : conv_in_(scope / "conv_in", conv3x3(any_size, any_size)),
        channels_(conv_in_.out()),
        levels_(make_levels<Level>(scope / "down", channels_)),
        middle_(scope / "mid", channels_),
        norm_out_(scope / "norm_out", kEps, channels_),
        conv_out_(scope / "conv_out", conv3x3(channels_, any_size)) {}

  Tensor operator()(const Tensor& image) const {  // [N, H, W, 3]
    Tensor h = conv_in_(image);
    for (const Level& level : levels_) {
      h = level.blocks(h);
      if (level.halve) h = (*level.halve)(pad_end(h));  // [N, H/2, W/2, C]
    }
    return conv_out_(norm_out_.silu(middle_(h)));  // [N, H/8, W/8, 8]
  }
  int64_t out() const { return conv_out_.out(); }
  int64_t size_multiple() const {
    int64_t multiple = 1;
    for (const Level& level : levels_) multiple *= level.halve ? 2 : 1;
    return multiple;
  }

 private:
  struct Level {
    Level(const Scope& scope, int64_t& channels) : blocks(scope / "block", channels) {
      if (scope.has("downsample"))
        halve.emplace(scope / "downsample" / "conv",
                      ConvSizes{.in = channels, .out = channels, .kernel = 3, .stride = 2});
    }
    ResBlocks blocks;
    std::optional<Conv2d> halve;
  };

  Conv2d conv_in_;
  int64_t channels_;  // follows the levels while they are made
  std::vector<Level> levels_;
  Middle middle_;
  GroupNorm norm_out_;
  Conv2d conv_out_;
};

class VAE::Decoder {
 public:
  explicit Decoder(const Scope& scope)
      : conv_in_(scope / "conv_in", conv3x3(any_size, any_size)),
        channels_(conv_in_.out()),
        middle_(scope / "mid", channels_),
        levels_(make_levels<Level>(scope / "up", channels_, true)),
        norm_out_(scope / "norm_out", kEps, channels_),
        conv_out_(scope / "conv_out", conv3x3(channels_, 3)) {}

  Tensor operator()(const Tensor& latents) const {  // [N, H/8, W/8, 4]
    Tensor h = middle_(conv_in_(latents));
    for (const Level& level : levels_) {
      h = level.blocks(h);
      if (level.conv) h = (*level.conv)(upsample_nearest2x(h));  // [N, 2H, 2W, C]
    }
    return conv_out_(norm_out_.silu(h));  // [N, H, W, 3]
  }

 private:
  struct Level {
    Level(const Scope& scope, int64_t& channels) : blocks(scope / "block", channels) {
      if (scope.has("upsample")) conv.emplace(scope / "upsample" / "conv", conv3x3(channels, channels));
    }
    ResBlocks blocks;
    std::optional<Conv2d> conv;
  };

  Conv2d conv_in_;
  int64_t channels_;
  Middle middle_;
  std::vector<Level> levels_;
  GroupNorm norm_out_;
  Conv2d conv_out_;
};

VAE::VAE(const Scope& scope)
    : Module(scope),
      dtype_(scope.dtype()),
      encoder_(std::make_shared<Encoder>(scope / "encoder")),
      decoder_(std::make_shared<Decoder>(scope / "decoder")),
      quant_conv_(scope / "quant_conv", {.in = encoder_->out(), .kernel = 1}),
      post_quant_conv_(scope / "post_quant_conv", {.in = quant_conv_.out() / 2, .kernel = 1}) {}

VAE VAE::from_safetensors(const std::filesystem::path& path, Device device, DType dtype) {
  return VAE(Scope(*Checkpoint(path).vae(), dtype, device));
}

int64_t VAE::size_multiple() const { return encoder_->size_multiple(); }
int64_t VAE::latent_channels() const { return post_quant_conv_.in(); }

VAE::Posterior VAE::posterior(const Tensor& image) const {
  const int64_t multiple = size_multiple();
  require(image.rank() == 4 && image.dim(1) == 3 && image.dim(2) % multiple == 0 && image.dim(3) % multiple == 0,
          "VAE::encode", "expected pictures [N, 3, H, W] with H and W in multiples of ", multiple, ", got ",
          image.shape());
  const Tensor moments = channels_first(quant_conv_((*encoder_)(channels_last(image.to(dtype_)))));  // [N, 8, h, w]
  const int64_t channels = latent_channels();
  return {.mean = moments.narrow(1, 0, channels).to(DType::f32),
          .logvar = clamp(moments.narrow(1, channels, channels).to(DType::f32), -30, 20)};
}

Tensor VAE::encode(const Tensor& image, const Tensor& noise) const { return sample(posterior(image), noise); }
Tensor VAE::encode(const Tensor& image) const { return posterior(image).mean * scale; }

Tensor VAE::decode(const Tensor& latents) const {
  require(latents.rank() == 4 && latents.dim(1) == latent_channels(), "VAE::decode", "expected latents [N, ",
          latent_channels(), ", H, W], got ", latents.shape());
  const Tensor h = channels_last((latents / scale).to(dtype_));
  return channels_first((*decoder_)(post_quant_conv_(h))).to(DType::f32);
}

Tensor sample(const VAE::Posterior& posterior, const Tensor& noise) {
  return (posterior.mean + exp(posterior.logvar * 0.5f) * noise) * VAE::scale;
}

}  // namespace eri
