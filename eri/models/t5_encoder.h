#pragma once

#include <filesystem>
#include <vector>

#include "flame/nn/layers.h"

namespace eri {

using flame::Tensor;

// The encoder of T5 v1.1 (Raffel et al., arXiv:1910.10683; gated gelu: Shazeer, arXiv:2002.05202), under transformers'
// names. All sizes are read from the weights. Products are computed in the scope's dtype. The sums between layers,
// norms and attention are f32, and in f16 the feed-forward's last product too, where T5-XXL leaves f16's range
// (transformers keeps `wo` in f32 for the same reason).
class T5Encoder : public flame::Module {
 public:
  explicit T5Encoder(const flame::Scope& scope);
  // A file such as t5xxl_fp16.safetensors, or a folder as transformers saves it, in shards or not.
  static T5Encoder from_safetensors(const std::filesystem::path& path, flame::Device device = flame::Device::cpu(),
                                    flame::DType dtype = flame::DType::f32);

  // ids [N, T] i32 -> [N, T, width] f32: the last layer's output after the final norm. Every position sees every other.
  Tensor encode(const Tensor& ids) const;

  int64_t width() const { return tokens_.width(); }
  int64_t vocabulary() const { return tokens_.count(); }
  flame::Device device() const { return tokens_.table().device(); }

 private:
  class Layer;
  Tensor position_bias(int64_t length) const;  // [1, heads, T, T]

  flame::Embedding tokens_;
  flame::Embedding buckets_;  // [buckets, heads]: what an offset between two positions adds to their score
  std::vector<Layer> layers_;
  flame::RmsNorm final_norm_;
};

class T5Encoder::Layer {
 public:
  Layer(const flame::Scope& scope, int64_t width, int64_t heads);
  Tensor operator()(Tensor h, const Tensor& bias) const;

 private:
  Tensor attend(const Tensor& x, const Tensor& bias) const;
  Tensor feed_forward(const Tensor& x) const;

  flame::DType dtype_;
  int64_t heads_;
  flame::RmsNorm norm1_;
  flame::Linear q_, k_, v_, o_;
  flame::RmsNorm norm2_;
  flame::Linear gate_, value_, out_;
};

// Which of `count` buckets the offset key - query falls into: half of them for each sign, of these half for one
// distance each and half for ranges that grow to 128 and beyond.
int32_t relative_position_bucket(int64_t offset, int64_t count);

}  // namespace eri
