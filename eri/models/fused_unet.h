#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "flame/core/tensor.h"

namespace eri {

using flame::Tensor;

class SpatialTransformer;

// What of a transformer block's forward pass is kept for its backward pass; the rest is computed again.
enum class MemoryPolicy {
  lean,     // all that more than a pointwise pass would be needed for
  ff,       // not the feed-forward's inner activations
  attn_ff,  // nor the projections to queries, keys and values
  block,    // only the block's input
};
MemoryPolicy parse_memory_policy(std::string_view name);  // throws for an unknown name, listing the known ones

// The transformers of a UNet on a GPU in f16 or bf16, as few launches: each layer is one matrix with its adapter, norms
// pass on what the gradient needs, adapters' gradients run beside the rest. They take over the layers' weights.
class FusedTransformers {
 public:
  virtual ~FusedTransformers() = default;

  // Keys and values of the text, of every block: context [N, T, C] -> [N, T, all of them].
  virtual Tensor text(const Tensor& context) const = 0;
  virtual int64_t text_width() const = 0;  // of all of them
  // The transformer number `index`: proj_in(normed) .. proj_out + x; pictures [N, H, W, C].
  virtual Tensor run(size_t index, const Tensor& normed, const Tensor& x, const Tensor& text) const = 0;
  // Takes the adapters' values over: after each change of them.
  virtual void refresh() const = 0;
  virtual void set_policy(MemoryPolicy policy) = 0;  // of the steps to come
};

// Needs a build with CUDA, weights on a GPU in f16 or bf16, and adapters, where there are any, in f32. Throws saying
// what is not so.
std::unique_ptr<FusedTransformers> fuse(const std::vector<std::shared_ptr<SpatialTransformer>>& transformers);

}  // namespace eri
