#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "eri/models/geometry.h"
#include "eri/models/unet_blocks.h"
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
  Tensors inputs;  // on the device
  flame::Device device = flame::Device::cpu();
  Frequencies frequencies = Frequencies::as_on_cpu;  // as where the expected values are from
  flame::DType dtype = flame::DType::f32;            // that the models compute in
  std::filesystem::path checkpoint;                  // whose weights the models have; empty: those of the seed
  bool fused = false;                                // the UNet's transformers
  int draws = 1;                                     // results whose mean distances are judged

  std::string name() const { return folder.filename().string(); }
  const Tensor& input(const std::string& tensor) const;  // throws if there is none
};

// How cases are run.
struct Options {
  std::filesystem::path geometries;  // where they are looked for; empty: in ../../geometries seen from the case
  flame::Device device = flame::Device::cpu();
  flame::DType dtype = flame::DType::f32;
  std::filesystem::path checkpoint;
  bool fused = false;
};
Case load_case(const std::filesystem::path& folder, const Options& options);

Tensors read_tensors(const std::filesystem::path& file);  // copies, so that nothing stays mapped

bool matches(std::string_view pattern, std::string_view name);

}  // namespace eri::parity
