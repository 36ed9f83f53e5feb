#pragma once

#include "flame/nn/attention.h"

// The parts of SDXL's autoencoder. Pictures are [N, H, W, C] here.
namespace eri::vae {

using flame::Scope;
using flame::Tensor;

struct ResBlock {
  ResBlock(const Scope& scope, int64_t channels);
  Tensor operator()(const Tensor& x) const;
  int64_t out() const { return conv1.out(); }

  flame::GroupNorm norm1;
  flame::Conv2d conv1;
  flame::GroupNorm norm2;
  flame::Conv2d conv2;
  std::optional<flame::Conv2d> skip;
};

// Where every position sees every other: a residual block, single-head attention, a residual block.
struct Middle {
  Middle(const Scope& scope, int64_t channels);
  Tensor operator()(const Tensor& x) const;

  ResBlock block1;
  flame::GroupNorm norm;
  flame::Attention attention;
  ResBlock block2;
};

// Residual blocks at one size, and what leads to the next: an encoder halves it, a decoder doubles it.
struct Level {
  enum class Way { down, up };
  Level(const Scope& scope, int64_t& channels, Way way);
  Tensor operator()(Tensor h) const;

  std::vector<ResBlock> blocks;
  std::optional<flame::Conv2d> halve, twofold;
};

struct Encoder {
  explicit Encoder(const Scope& scope);
  Tensor operator()(const Tensor& image) const;  // [N, H, W, 3] -> [N, H/8, W/8, 8]
  int64_t size_multiple() const;

  flame::Conv2d conv_in;
  int64_t channels;  // follows the levels while they are made
  std::vector<Level> levels;
  Middle middle;
  flame::GroupNorm norm_out;
  flame::Conv2d conv_out;
};

struct Decoder {
  explicit Decoder(const Scope& scope);
  Tensor operator()(const Tensor& latents) const;  // [N, H/8, W/8, 4] -> [N, H, W, 3]

  flame::Conv2d conv_in;
  int64_t channels;
  Middle middle;
  std::vector<Level> levels;  // in the order of the work: the file's last one first
  flame::GroupNorm norm_out;
  flame::Conv2d conv_out;
};

}  // namespace eri::vae
