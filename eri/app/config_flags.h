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
  // With another text than the key's where that is of training. The object must stay where it is until the command line
  // has been read.
  CLI::Option* add_to(CLI::App& command, const ConfigKey& key, const char* help = nullptr);
  void apply(TrainConfig& config) const;

 private:
  std::vector<std::pair<const ConfigKey*, std::string>> given_;
};

}  // namespace eri
