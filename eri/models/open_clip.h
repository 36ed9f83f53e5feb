#pragma once

#include "flame/nn/scope.h"

namespace eri {

// An OpenCLIP text encoder under the names of transformers' CLIPTextModelWithProjection: q, k and v are rows of a fused
// tensor, and text_projection is turned (OpenCLIP multiplies it from the left).
class OpenClipSource : public flame::WeightSource {
 public:
  explicit OpenClipSource(std::shared_ptr<const flame::WeightSource> inner) : inner_(std::move(inner)) {}
  std::string describe() const override { return inner_->describe(); }
  std::vector<std::string> names() const override;
  std::optional<flame::Shape> find(const std::string& name) const override;
  flame::Tensor read(const std::string& name) const override;
  std::string full_name(const std::string& name) const override;

 private:
  std::shared_ptr<const flame::WeightSource> inner_;
};

}  // namespace eri
