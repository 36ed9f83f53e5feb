#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "eri/models/fused_unet.h"
#include "eri/models/unet_blocks.h"

namespace eri {

class Checkpoint;

// SDXL's UNet. How many levels, blocks and channels it has is read from the weights. Its layers have the names of a
// single-file checkpoint below `model.diffusion_model`.
class UNet : public flame::Module {
 public:
  // How wide an attention head is cannot be told from the weights' shapes; SDXL's are 64.
  // `frequencies` are of the embeddings of timesteps and sizes.
  explicit UNet(const flame::Scope& scope, int64_t head_width = 64, std::optional<Frequencies> frequencies = {});
  static UNet from_safetensors(const std::filesystem::path& path, flame::Device device = flame::Device::cpu(),
                               flame::DType dtype = flame::DType::f32);

  static UNet from_checkpoint(const Checkpoint& checkpoint, flame::Device device, flame::DType dtype);

  // What is in x is predicted: x [N, 4, H, W], t [N] (0..999, f32, i32 or i64), context [N, T, C], pooled [N, P],
  // time_ids [N, 6] f32 (original height and width, crop top and left, target height and width) -> [N, 4, H, W].
  // H and W must be multiples of size_multiple(). x, context and pooled are cast to the weights' dtype. The context may
  // be what read_text() made of it.
  Tensor operator()(const Tensor& x, const Tensor& t, const Tensor& context, const Tensor& pooled,
                    const Tensor& time_ids) const;
  Tensor forward(const Tensor& x, const Tensor& t, const Tensor& context, const Tensor& pooled,
                 const Tensor& time_ids) const {
    return (*this)(x, t, context, pooled, time_ids);
  }

  // What a prediction makes of a context whatever the picture and the timestep, for contexts that are used again: keys
  // and values for all blocks where transformers are fused, else the context itself.
  Tensor read_text(const Tensor& context) const;

  // Rebuilds the transformers, with the adapters that they have now, for speed on a GPU; see fused_unet.h. Their layers
  // cannot be called one by one from then on.
  void fuse(MemoryPolicy policy = MemoryPolicy::lean);
  bool can_fuse() const;  // a build with CUDA, weights in f16 or bf16 on a GPU, heads of 64, rows of at most 2048
  bool is_fused() const { return fusion_->transformers != nullptr; }
  void refresh() const;                         // after each change of the adapters of fused transformers
  void set_memory_policy(MemoryPolicy policy);  // of fused transformers; throws while captured graphs exist

  // The LoRA that its layers have now, as ComfyUI and others load it. Defined in eri/lora.
  void save_lora(const std::filesystem::path& path) const;

  int64_t context_width() const { return context_width_; }
  int64_t pooled_width() const { return label_embed_.in() - 6 * id_waves_.width(); }
  int64_t size_multiple() const { return size_multiple_; }
  static int64_t size_multiple(const flame::Scope& scope);  // of the UNet that `scope` has the weights of

  // Called with the name and output of every block, pictures as [N, C, H, W]: for finding differences.
  std::function<void(const std::string& name, const Tensor& output)> trace;

 private:
  using Layer = std::function<Tensor(const Tensor& x, const Condition& condition)>;
  struct Block {
    std::string name;
    std::vector<Layer> layers;
  };
  struct Fusion {
    std::unique_ptr<FusedTransformers> transformers;  // none until fuse()
  };

  Block make_block(const flame::Scope& scope, int64_t& channels);
  Layer make_layer(const flame::Scope& scope, int64_t& channels);
  void check(const Tensor& x, const Tensor& t, const Tensor& context, const Tensor& pooled,
             const Tensor& time_ids) const;
  Tensor predict(const Tensor& x, const Tensor& t, const Tensor& context, const Tensor& pooled,
                 const Tensor& time_ids) const;
  bool is_read(const Tensor& context) const;
  Tensor embed(const Tensor& t, const Tensor& pooled, const Tensor& time_ids) const;
  Tensor run(const Block& block, Tensor h, const Condition& condition) const;

  flame::DType dtype_;
  int64_t in_channels_, context_width_, head_width_, size_multiple_;
  Sinusoids time_waves_, id_waves_;
  EmbeddingMlp time_embed_, label_embed_;
  std::shared_ptr<Fusion> fusion_;
  std::vector<Block> input_blocks_, middle_blocks_, output_blocks_;
  std::vector<std::shared_ptr<SpatialTransformer>> transformers_;
  flame::GroupNorm norm_out_;
  flame::Conv2d conv_out_;
};

}  // namespace eri
