#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "flame/io/safetensors.h"
#include "flame/nn/scope.h"

namespace eri {

// The tensors of a safetensors file, or of the several (shards) that an index, FILE.safetensors.index.json, names.
// Weights in F8 with a scale beside them are read as their product, f32; the scales are not among the entries.
// Copies share the mapped files.
class WeightFiles {
 public:
  using Entries = std::map<std::string, flame::SafetensorsFile::Entry>;

  // A file, an index, or a folder with either in it, as diffusers and transformers name them: the whole precision, else
  // the variant fp16. Throws naming what is missing.
  explicit WeightFiles(const std::filesystem::path& path);

  const std::filesystem::path& path() const;  // the file, or the index of the shards
  const std::vector<flame::SafetensorsFile>& files() const;
  const Entries& entries() const;
  flame::Tensor tensor(const std::string& name) const;
  size_t bytes() const;                         // of all files
  void read_ahead(std::stop_token stop) const;  // see flame::MappedFile

  bool has_below(const std::string& prefix) const;
  // The tensors whose names begin with `prefix`, by the rest of their names.
  std::shared_ptr<const flame::WeightSource> below(std::string prefix) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace eri
