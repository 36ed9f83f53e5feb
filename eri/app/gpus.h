#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace eri {

struct Gpu {
  std::string name;
  int major, minor;    // compute capability
  size_t free, total;  // bytes
};

// What this machine offers to a build with CUDA, for people. Where something is missing, the reason stands in its
// place.
struct GpuReport {
  std::string driver, cublaslt, cudnn;
  std::vector<Gpu> gpus;
  std::string missing;  // why there is no GPU
  bool usable;          // nothing is missing
};
GpuReport find_gpus();

}  // namespace eri
