#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

#include "eri/train/config.h"

namespace eri {

// Keys of a training run's configuration as options of a command: what was given, in its order.
class ConfigFlags {
 public:
  // The object must stay where it is until the command line has been read.
  void add_to(CLI::App& command, const ConfigKey& key);
  void apply(TrainConfig& config) const;

 private:
  std::vector<std::pair<const ConfigKey*, std::string>> given_;
};

}  // namespace eri
