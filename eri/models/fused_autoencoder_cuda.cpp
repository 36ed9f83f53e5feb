#include <array>

#include "eri/models/fused_autoencoder.h"
#include "flame/ops/conv_kernels.h"
#include "flame/ops/fused_cuda.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"

namespace eri::vae {

using namespace flame;

namespace {

// a + b + bias, added up only where it is read. b and bias may be none; a's pixels may lie in quarters, as
// cuda::GroupNormRows says.
struct Sum {
  Tensor a;  // [N, H, W, C]
  bool quartered = false;
  Tensor b = {}, bias = {};
};

cuda::GroupNormRows norm_task(const Sum& sum, int groups) {
  const Tensor& x = sum.b.defined() ? sum.b : sum.a;
  const int64_t samples = x.dim(0);
  cuda::Matrix added = cuda::rows_of(sum.bias);
  if (added.defined()) added.rows = samples, added.pitch = 0;
  return {.x = cuda::rows_of(x),
          .samples = samples,
          .groups = groups,
          .weight = {},
          .bias = {},
          .mean = Tensor::empty({samples, groups}, DType::f32, x.device()),
          .rstd = Tensor::empty({samples, groups}, DType::f32, x.device()),
          .added = added,
          .quartered_width = sum.quartered ? x.dim(2) : 0};
}

Tensor empty_like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

// norm(sum), or silu(norm(sum)). What had two parts is one tensor afterwards.
Tensor normed(Sum& sum, const GroupNorm& norm, bool silu = true) {
  cuda::GroupNormRows task = norm_task(sum, norm.groups());
  task.silu = silu;
  task.weight = norm.weight();
  task.bias = norm.bias();
  const Tensor y = empty_like(sum.a);
  if (!sum.b.defined()) {
    cuda::group_norm_rows(task, norm.eps(), cuda::rows_of(y));
    return y;
  }
  const Tensor whole = empty_like(sum.a);
  cuda::add_group_norm_rows(task, cuda::rows_of(sum.a), norm.eps(), cuda::rows_of(whole), cuda::rows_of(y));
  sum = {whole};
  return y;
}

Tensor added_up(const Sum& sum) {
  require(sum.b.defined(), "VAE", "expected a level with blocks");
  const Tensor whole = empty_like(sum.a);
  cuda::add_group_norm_rows(norm_task(sum, 1), cuda::rows_of(sum.a), 0, cuda::rows_of(whole));
  return whole;
}

// Without its bias.
Tensor convolved(const Conv2d& conv, const Tensor& x) {
  return conv2d(x, conv.weight(), {}, conv.stride(), conv.padding());
}

// A 3x3 convolution, with a picture around it, of the picture at twice its size: each of a square's four pixels sees
// 2x2 pixels of the small one, by weights added up beforehand.
class Twofold {
 public:
  explicit Twofold(const Conv2d& conv) : bias_(conv.bias()) {
    const Tensor weight = conv.weight().to(DType::f32);
    for (int quarter = 0; quarter < 4; ++quarter)
      quarters_[quarter] = folded(folded(weight, 1, quarter / 2), 2, quarter % 2).to(conv.weight().dtype());
  }

  Sum operator()(const Tensor& x) const {
    const int64_t samples = x.dim(0), height = x.dim(1), width = x.dim(2), out = quarters_[0].dim(0);
    const Tensor y = Tensor::empty({samples * 4, height, width, out}, x.dtype(), x.device());
    for (int64_t n = 0; n < samples; ++n) {
      for (int quarter = 0; quarter < 4; ++quarter) {
        const int lower = quarter / 2, right = quarter % 2;
        const Tensor from = x.rows(n, 1), to = y.rows(n * 4 + quarter, 1);
        const Convolution conv = {from.shape(), quarters_[quarter].shape(), 1, {1 - lower, 1 - right, lower, right}};
        cuda::conv2d(conv, from, quarters_[quarter], {}, to);
      }
    }
    return {y.view({samples, 2 * height, 2 * width, out}), true, {}, bias_};
  }

 private:
  // Of three taps along an axis those two added up that see the same pixel of the small picture.
  static Tensor folded(const Tensor& weight, int axis, int second) {
    const auto taps = [&](int64_t begin, int64_t count) { return narrow(weight, axis, begin, count); };
    return second ? concat({taps(0, 1) + taps(1, 1), taps(2, 1)}, axis)
                  : concat({taps(0, 1), taps(1, 1) + taps(2, 1)}, axis);
  }

  std::array<Tensor, 4> quarters_;  // [out, 2, 2, in]
  Tensor bias_;
};

class FusedBlock {
 public:
  // `pending`: the bias that the block's input has not been given yet, or none.
  explicit FusedBlock(const ResBlock& block, const Tensor& pending = {}) : block_(block) {
    bias_ = block.conv2.bias().to(DType::f32);
    if (block.skip) bias_ = bias_ + block.skip->bias().to(DType::f32);
    if (pending.defined() && block.skip) {
      const Tensor row = pending.to(DType::f32).view({1, pending.numel()});
      bias_ = bias_ + linear(row, block.skip->weight().to(DType::f32).view(matrix()), {}).view({block.out()});
    } else if (pending.defined()) {
      bias_ = bias_ + pending.to(DType::f32);
    }
  }

  Sum operator()(Sum x) const {
    Tensor h = normed(x, block_.norm1);
    const Tensor skip = block_.skip ? linear(x.a, block_.skip->weight().view(matrix()), {}) : x.a;
    const bool quartered = x.quartered;
    x = {};  // frees the input where the shortcut has made another
    Sum inner = {convolved(block_.conv1, h), false, {}, block_.conv1.bias()};
    h = normed(inner, block_.norm2);
    inner = {};
    return {skip, quartered, convolved(block_.conv2, h), bias_};  // [N, H, W, out]
  }

 private:
  Shape matrix() const { return {block_.skip->out(), block_.skip->in()}; }

  const ResBlock& block_;
  Tensor bias_;  // of all that is added up in the result
};

class FusedMiddle {
 public:
  explicit FusedMiddle(const Middle& middle) : middle_(middle), block1_(middle.block1), block2_(middle.block2) {}

  Sum operator()(Sum x) const {
    x = block1_(std::move(x));
    const Shape shape = x.a.shape();
    const Tensor tokens = normed(x, middle_.norm, false).view({shape[0], shape[1] * shape[2], shape[3]});
    x.b = middle_.attention(tokens).view(shape);
    return block2_(std::move(x));
  }

 private:
  const Middle& middle_;
  FusedBlock block1_, block2_;
};

class FusedLevel {
 public:
  FusedLevel(const Level& level, const Tensor& pending) : level_(level) {
    for (const ResBlock& block : level.blocks) blocks_.emplace_back(block, blocks_.empty() ? pending : Tensor());
    if (level.twofold) twofold_.emplace(*level.twofold);
  }

  Sum operator()(Sum x) const {
    for (const FusedBlock& block : blocks_) x = block(std::move(x));
    if (level_.halve) return {convolved(*level_.halve, added_up(x)), false, {}, level_.halve->bias()};
    if (twofold_) return (*twofold_)(added_up(x));
    return x;
  }

 private:
  const Level& level_;
  std::vector<FusedBlock> blocks_;
  std::optional<Twofold> twofold_;
};

// The bias that each level's input is without, `first` that of the first's.
std::vector<FusedLevel> fused(const std::vector<Level>& levels, Tensor pending) {
  std::vector<FusedLevel> result;
  for (const Level& level : levels) {
    result.emplace_back(level, pending);
    if (level.halve) pending = level.halve->bias();
    if (level.twofold) pending = level.twofold->bias();
  }
  return result;
}

class FusedAutoencoder : public Fused {
 public:
  FusedAutoencoder(std::shared_ptr<const Encoder> encoder, std::shared_ptr<const Decoder> decoder)
      : encoder_(std::move(encoder)),
        decoder_(std::move(decoder)),
        encoder_levels_(fused(encoder_->levels, encoder_->conv_in.bias())),
        encoder_middle_(encoder_->middle),
        decoder_middle_(decoder_->middle),
        decoder_levels_(fused(decoder_->levels, {})) {}

  Tensor encode(const Tensor& image) const override {
    Sum h = {convolved(encoder_->conv_in, image), false, {}, encoder_->conv_in.bias()};
    for (const FusedLevel& level : encoder_levels_) h = level(std::move(h));
    h = encoder_middle_(std::move(h));
    return encoder_->conv_out(normed(h, encoder_->norm_out));
  }

  Tensor decode(const Tensor& latents) const override {
    Sum h = decoder_middle_({decoder_->conv_in(latents)});
    for (const FusedLevel& level : decoder_levels_) h = level(std::move(h));
    return decoder_->conv_out(normed(h, decoder_->norm_out));
  }

 private:
  std::shared_ptr<const Encoder> encoder_;
  std::shared_ptr<const Decoder> decoder_;
  std::vector<FusedLevel> encoder_levels_;
  FusedMiddle encoder_middle_, decoder_middle_;
  std::vector<FusedLevel> decoder_levels_;
};

}  // namespace

std::unique_ptr<Fused> fuse(std::shared_ptr<const Encoder> encoder, std::shared_ptr<const Decoder> decoder) {
  PurposeScope purpose(Purpose::weights);
  return std::make_unique<FusedAutoencoder>(std::move(encoder), std::move(decoder));
}

}  // namespace eri::vae
