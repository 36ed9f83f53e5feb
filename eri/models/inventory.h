#pragma once

#include "eri/models/checkpoint.h"

namespace eri {

// What is in a file or a diffusers folder, of whatever family: for people and programs to look at.
struct Inventory {
  struct Count {
    int64_t parameters = 0, tensors = 0;
    std::map<std::string, int64_t> precisions;             // parameters by the format's name: "F16"
    void add(const flame::SafetensorsFile::Entry& entry);  // its parameters
  };

  FileKind kind;
  std::vector<std::filesystem::path> files;
  size_t bytes = 0;
  std::map<std::string, Count> parts;  // "UNet", "VAE", ..., and "other"; integers and alphas are no parameters
  Count whole;
  std::string parametrization;  // a sentence; empty where there is no SDXL UNet
  flame::Metadata metadata;
};

Inventory inventory_of(const std::filesystem::path& path);

}  // namespace eri
