#pragma once

#include "eri/models/geometry.h"
#include "flame/nn/scope.h"

namespace eri {

// A single-file checkpoint whose values are a formula of seed, name and index (tests/parity/README.md): a model of any
// size without a download. Nothing is stored; a tensor is made when it is asked for, in f32.
class SyntheticCheckpoint : public flame::WeightSource {
 public:
  // With a part, such as unet_prefix, only that, its tensors named without the prefix.
  SyntheticCheckpoint(const Geometry& geometry, uint64_t seed, std::string_view part = "");
  std::string describe() const override;
  std::vector<std::string> names() const override;
  std::optional<flame::Shape> find(const std::string& name) const override;
  flame::Tensor read(const std::string& name) const override;
  std::string full_name(const std::string& name) const override { return prefix_ + name; }

 private:
  std::string geometry_, prefix_;
  uint64_t seed_;
  std::map<std::string, flame::Shape> tensors_;
};

// Elements [first, first + count) of the tensor `name`.
void synthetic_values(const std::string& name, const flame::Shape& shape, uint64_t seed, int64_t first, int64_t count,
                      float* values);

// The layouts that people have a model in: one file; a diffusers folder, as it is, with variant fp16, or with UNet and
// CLIP-G in several files; a folder with one file for each part, as ComfyUI's users have them.
enum class ModelLayout { single, diffusers, diffusers_fp16, sharded, separate };
ModelLayout parse_layout(std::string_view name);  // "single", "diffusers", "diffusers-fp16", "sharded", "separate"

// The whole checkpoint in f32, f16 or bf16, without ever holding more than one tensor: the same weights in each layout.
void write_synthetic_checkpoint(const std::filesystem::path& path, const Geometry& geometry, uint64_t seed,
                                flame::DType dtype, ModelLayout layout = ModelLayout::single);

}  // namespace eri
