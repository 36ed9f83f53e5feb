#pragma once

#include <optional>
#include <vector>

#include "flame/nn/attention.h"

// The parts of SDXL's UNet. Pictures are [N, H, W, C].
namespace eri {

using flame::Tensor;

// What every block is told besides its picture.
struct Condition {
  Tensor embedding;  // [N, E]: silu of the sum of the embedded timestep, pooled text and sizes
  Tensor context;    // [N, T, C]: the text
  Tensor text;       // [N, T, ..]: keys and values of it for all blocks, where the transformers are fused
};

// PyTorch's of sinusoidal embeddings differ in the last bits between the two.
enum class Frequencies { as_on_cpu, as_on_gpu };

// Numbers as waves: x [N] f32 -> [N, width] f32, first the cosines, then the sines, of x times frequencies from 1 down
// to nearly 1 / 10000, those of the kind of device that they are on if nothing is said.
class Sinusoids {
 public:
  Sinusoids(int64_t width, flame::Device device, std::optional<Frequencies> which = {});
  Tensor operator()(const Tensor& x) const;
  int64_t width() const { return 2 * frequencies_.dim(1); }

 private:
  Tensor frequencies_;  // [1, width / 2]
};

// Linear, SiLU, Linear: the layers 0 and 2 of `scope`.
class EmbeddingMlp {
 public:
  EmbeddingMlp(const flame::Scope& scope, const flame::LinearSizes& sizes);
  Tensor operator()(const Tensor& x) const;
  int64_t in() const { return first_.in(); }
  int64_t out() const { return second_.out(); }

 private:
  flame::Linear first_, second_;
};

class ResBlock {
 public:
  ResBlock(const flame::Scope& scope, int64_t channels, int64_t embedding_width);
  Tensor operator()(const Tensor& x, const Condition& condition) const;
  int64_t out() const { return conv1_.out(); }

 private:
  flame::GroupNorm norm1_;
  flame::Conv2d conv1_;
  flame::Linear embed_;
  flame::GroupNorm norm2_;
  flame::Conv2d conv2_;
  std::optional<flame::Conv2d> skip_;  // where the number of channels changes
};

// Self-attention, attention to the text and a gated feed-forward layer, each added to what came in.
class TransformerBlock {
 public:
  TransformerBlock(const flame::Scope& scope, int64_t width, int64_t context_width, int64_t head_width);
  Tensor operator()(Tensor x, const Tensor& context) const;

  const flame::LayerNorm& norm1() const { return norm1_; }
  const flame::LayerNorm& norm2() const { return norm2_; }
  const flame::LayerNorm& norm3() const { return norm3_; }
  const flame::Attention& self() const { return self_; }
  const flame::Attention& cross() const { return cross_; }
  const flame::GegluFeedForward& feed_forward() const { return feed_forward_; }

 private:
  flame::LayerNorm norm1_, norm2_, norm3_;
  flame::Attention self_, cross_;
  flame::GegluFeedForward feed_forward_;
};

class SpatialTransformer {
 public:
  SpatialTransformer(const flame::Scope& scope, int64_t channels, int64_t context_width, int64_t head_width);
  Tensor operator()(const Tensor& x, const Condition& condition) const;

  const flame::GroupNorm& norm() const { return norm_; }
  const flame::Linear& proj_in() const { return proj_in_; }
  const std::vector<TransformerBlock>& blocks() const { return blocks_; }
  const flame::Linear& proj_out() const { return proj_out_; }

 private:
  flame::GroupNorm norm_;
  flame::Linear proj_in_;
  std::vector<TransformerBlock> blocks_;
  flame::Linear proj_out_;
};

}  // namespace eri
