#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "eri/models/geometry.h"
#include "flame/core/tensor.h"

// One folder of tests/parity/cases; README.md there says what it holds.
namespace eri::parity {

using flame::Tensor;
using Tensors = std::map<std::string, Tensor>;

struct Tolerance {
  std::string pattern;  // * stands for any characters
  double limit;
};

struct Case {
  std::filesystem::path folder;
  std::string kind;
  nlohmann::json params;
  Geometry geometry;  // SDXL's where the case has no model
  uint64_t seed = 0;
  std::vector<Tolerance> tolerances;  // the first that matches counts; the last matches all
  std::vector<Tolerance> groups;
  Tensors inputs;

  std::string name() const { return folder.filename().string(); }
  const Tensor& input(const std::string& tensor) const;  // throws if there is none
};

// Geometries are looked for in `geometries`; if it is empty, in ../../geometries seen from the case.
Case load_case(const std::filesystem::path& folder, const std::filesystem::path& geometries);

Tensors read_tensors(const std::filesystem::path& file);  // copies, so that nothing stays mapped

bool matches(std::string_view pattern, std::string_view name);

}  // namespace eri::parity
