#include "eri/train/memory_estimate.h"

#include <algorithm>

#include "flame/core/error.h"

namespace eri {
namespace {

constexpr int64_t kElement = 2, kFloat = 4;         // bytes: f16 or bf16, f32
constexpr int64_t kWorkspaces = int64_t{16} << 20;  // cuBLASLt's, of two streams

// Columns that a matrix has for its adapters and its bias: ExtendedLinear pads them for the products' sake.
int64_t extra_columns(int64_t rank) { return (rank + 1 + 63) / 64 * 64; }

struct Transformer {
  int64_t rows, width, depth;  // rows: of all samples
};

// Where the transformers are, and how many elements the norms between them keep.
struct Walk {
  std::vector<Transformer> transformers;
  int64_t kept_by_norms = 0, kept_after_transformers = 0;  // the latter: of the norms after the last of them

  explicit Walk(const MemoryQuestion& question) : unet_(question.unet), picture_(question.samples) {
    picture_ *= (question.height / 8) * (question.width / 8);
    int64_t channels = unet_.model_channels;
    std::vector<int64_t> skips = {channels};
    const int64_t levels = std::ssize(unet_.channel_mult);
    for (int64_t level = 0; level < levels; ++level) {
      for (int64_t i = 0; i < unet_.num_res_blocks; ++i) {
        channels = stage(level, channels, unet_.transformer_depth[level]);
        skips.push_back(channels);
      }
      if (level + 1 < levels) skips.push_back(channels);
    }
    stage(levels - 1, channels, unet_.transformer_depth_middle);
    stage(levels - 1, channels, 0);
    for (int64_t level = levels; level-- > 0;) {
      for (int64_t i = 0; i <= unet_.num_res_blocks; ++i) {
        channels = stage(level, channels + skips.back(), unet_.transformer_depth[level]);
        skips.pop_back();
      }
    }
    norm(picture_, channels);
  }

 private:
  // A residual block and, if it has one, the transformer after it. Gives the channels.
  int64_t stage(int64_t level, int64_t in, int64_t depth) {
    const int64_t out = unet_.model_channels * unet_.channel_mult[level], rows = picture_ >> (2 * level);
    norm(rows, in + out);
    if (!depth) return out;
    norm(rows, out);
    transformers.push_back({rows, out, depth});
    kept_after_transformers = 0;
    return out;
  }

  // Before the first adapter there is no gradient, for which a norm would keep its input.
  void norm(int64_t rows, int64_t channels) {
    if (transformers.empty()) return;
    kept_by_norms += rows * channels;
    kept_after_transformers += rows * channels;
  }

  const Geometry::UNet& unet_;
  int64_t picture_;
};

int64_t unet_elements(const Geometry::UNet& unet) {
  Geometry geometry;
  geometry.unet = unet;
  int64_t elements = 0;
  for (const auto& [name, shape] : checkpoint_tensors(geometry))
    if (name.starts_with(unet_prefix)) elements += shape.numel();
  return elements;
}

// Elements that a [out, in] matrix grows by.
int64_t growth(int64_t in, int64_t out, int64_t extra) { return (out + extra) * (in + extra) - out * in; }

void add_parameters(const MemoryQuestion& question, const Walk& walk, MemoryEstimate& sum) {
  const int64_t rank = question.rank, context = question.unet.context_dim;
  const int64_t one = extra_columns(rank), three = extra_columns(3 * rank);
  int64_t trained = 0, grown = 0;
  const auto train = [&](int64_t layers, int64_t in, int64_t out) {
    trained += layers * rank * (in + out);
    sum.optimizer += layers * state_bytes(question.optimizer, rank, in, out);
  };
  for (const auto& [rows, width, depth] : walk.transformers) {
    const int64_t text = depth * 2 * (context + width);
    train(2 + 6 * depth, width, width);
    train(depth, width, 8 * width);
    train(depth, 4 * width, width);
    train(2 * depth, context, width);
    grown += 2 * growth(width, width, one) + rank * text;
    grown += depth * (growth(width, 3 * width, three) + 3 * growth(width, width, one) + growth(width, 8 * width, one) +
                      growth(4 * width, width, one));
  }
  sum.weights = (unet_elements(question.unet) + grown) * kElement;
  sum.adapters = trained * kFloat;
  sum.gradients = trained * kFloat;
}

// Of one transformer block, in bytes: what its gradient needs, what of it the policy leaves to be computed again, and
// what its adapters' gradients read, which is held while the next block's are computed.
struct BlockActivations {
  int64_t kept, again, held;

  BlockActivations(int64_t rows, int64_t width, int64_t rank, MemoryPolicy policy) {
    const int64_t one = extra_columns(rank), three = extra_columns(3 * rank), heads = width / 64;
    const int64_t inner = 8 * width, projections = 3 * width + width;
    const int64_t inputs = (width + three) + 4 * (width + one) + one;  // of the layers; the last one's adapter's
    const int64_t statistics = 3 + 2 * heads;                          // f32
    const int64_t all = rows * ((inputs + projections + inner) * kElement + statistics * kFloat);
    again = 0;
    if (policy != MemoryPolicy::lean) again += rows * inner * kElement;
    if (policy == MemoryPolicy::attn_ff) again += rows * projections * kElement;
    if (policy == MemoryPolicy::block) again = all;
    kept = policy == MemoryPolicy::block ? rows * width * kElement : all - again;
    // Each layer's input and the gradient of its result.
    held = rows * ((inputs + 3 * width + inner / 2) + (6 * width + inner + 5 * one + three)) * kElement;
  }
};

void add_activations(const MemoryQuestion& question, const Walk& walk, MemoryEstimate& sum) {
  sum.kept = walk.kept_by_norms * kElement;
  int64_t text = 0;
  for (const auto& [rows, width, depth] : walk.transformers) {
    const BlockActivations block(rows, width, question.rank, question.policy);
    sum.kept += depth * block.kept + 2 * rows * (width + extra_columns(question.rank)) * kElement;
    // What GEGLU gives, which its own gradient left its place to, or a matrix of scores, which is what cuDNN's
    // repeatable attention backward works with, and what is computed again: when what the norms after the transformers
    // kept is no longer needed.
    const int64_t scores = question.deterministic ? rows / question.samples * rows * (width / 64) * kElement : 0;
    const int64_t first =
        std::max(rows * 4 * width * kElement, scores) + block.again - walk.kept_after_transformers * kElement;
    sum.working = std::max({sum.working, first, depth > 1 ? first + block.held - block.kept : 0});
    text += depth * 2 * width;
  }
  // Or the forward pass' end: about five tensors of the whole picture's size in the last residual block (measured).
  const int64_t pixels = question.samples * (question.height / 8) * (question.width / 8);
  sum.working = std::max(sum.working, 5 * pixels * question.unet.model_channels * kElement);
  sum.working += question.samples * question.text_tokens * text * kElement + kWorkspaces;
}

}  // namespace

MemoryEstimate estimate_memory(const MemoryQuestion& question) {
  flame::require(question.samples > 0 && question.rank > 0, "estimate_memory", "expected samples and a rank, got ",
                 question.samples, " and ", question.rank);
  const Walk walk(question);
  MemoryEstimate sum;
  add_parameters(question, walk, sum);
  add_activations(question, walk, sum);
  return sum;
}

}  // namespace eri
