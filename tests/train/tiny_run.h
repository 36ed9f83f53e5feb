#pragma once

#include "eri/train/config.h"

namespace eri {

// The small real model on the example's pictures, for a few steps on the CPU.
inline TrainConfig tiny_run(const std::filesystem::path& output) {
  TrainConfig config;
  config.device = "cpu";
  config.pretrained_model_name_or_path = "models/eri-tiny.safetensors";
  config.train_data_dir = "examples/blueprint";
  config.resolution = {128, 128};
  config.output_dir = output;
  config.network_dim = config.network_alpha = 4;
  config.max_train_steps = 4;
  return config;
}

}  // namespace eri
