#pragma once

#include <filesystem>
#include <vector>

#include "flame/nn/attention.h"

namespace eri {

using flame::Tensor;
class Checkpoint;

enum class Activation { quick_gelu, gelu };
enum class TextPart { clip_l, clip_g };  // SDXL's two text encoders

struct TextEncoding {
  Tensor hidden;  // [N, T, width]: what the last layer would get, without the final norm
  Tensor pooled;  // [N, projection]: last layer, final norm, first end token, projection; none if not asked for
};

// CLIP's text transformer (Radford et al., arXiv:2103.00020). How many layers it has and how wide they are is read
// from the weights. Its layers have the names of transformers' CLIPTextModelWithProjection.
class CLIPTextEncoder : public flame::Module {
 public:
  // How wide an attention head is cannot be told from the weights' shapes; CLIP's are 64.
  CLIPTextEncoder(const flame::Scope& scope, Activation activation, int64_t head_width = 64);
  static CLIPTextEncoder from_safetensors(const std::filesystem::path& path, TextPart part = TextPart::clip_l,
                                          flame::Device device = flame::Device::cpu(),
                                          flame::DType dtype = flame::DType::f32);

  static CLIPTextEncoder from_checkpoint(const Checkpoint& checkpoint, TextPart part, flame::Device device,
                                         flame::DType dtype);

  // ids [N, T] i32, T at most max_tokens(). A pooled text is given if there is a projection and `pooled`; only then
  // does the last layer run.
  TextEncoding encode(const Tensor& ids, bool pooled = true) const;

  int64_t width() const { return tokens_.width(); }
  flame::Device device() const { return tokens_.table().device(); }
  int64_t max_tokens() const { return positions_.count(); }
  bool has_projection() const { return projection_.has_value(); }

 private:
  class Layer;
  Tensor pool(const Tensor& h, const Tensor& ids) const;

  flame::Embedding tokens_, positions_;
  Tensor places_;  // f32: 0 .. max_tokens() - 1
  std::vector<Layer> layers_;
  flame::LayerNorm final_norm_;
  std::optional<flame::Linear> projection_;
};

class CLIPTextEncoder::Layer {
 public:
  Layer(const flame::Scope& scope, int64_t width, int64_t head_width, Activation activation);
  Tensor operator()(Tensor x) const;

 private:
  flame::LayerNorm norm1_;
  flame::Attention attention_;
  flame::LayerNorm norm2_;
  flame::Linear fc1_, fc2_;
  Activation activation_;
};

}  // namespace eri
