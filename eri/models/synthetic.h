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

// The whole checkpoint as a safetensors file of f32 or f16, without ever holding more than one tensor.
void write_synthetic_checkpoint(const std::filesystem::path& path, const Geometry& geometry, uint64_t seed,
                                flame::DType dtype);

}  // namespace eri
