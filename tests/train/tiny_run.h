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

// The same with every option of noise and loss that there is at once.
inline TrainConfig with_all_noise(TrainConfig config) {
  config.noise_offset = 0.1;
  config.noise_offset_random_strength = true;
  config.adaptive_noise_scale = 0.05;
  config.multires_noise_iterations = 6;
  config.ip_noise_gamma = 0.1;
  config.ip_noise_gamma_random_strength = true;
  config.min_timestep = 100;
  config.max_timestep = 900;
  config.loss_type = "smooth_l1";
  config.min_snr_gamma = 5;
  config.debiased_estimation_loss = true;
  return config;
}

// The same with layers of every kind and what can differ from block to block.
inline TrainConfig blocks_apart(TrainConfig config) {
  config.learning_rate = 4e-3;
  config.unet_lr = 5e-3;
  config.conv_dim = 2;
  config.block_dims = std::vector<int64_t>(23, 4);
  config.block_dims[5] = 6;
  config.block_dims[14] = 3;
  config.block_alphas = std::vector<double>(23, 4);
  config.block_lr_weight = std::vector<double>(23, 1);
  config.block_lr_weight[11] = 0;
  config.block_lr_weight[16] = 0.5;
  config.exclude_patterns = ".*attn2.*";
  config.include_patterns = ".*attn2.to_[qv]";
  return config;
}

inline TrainConfig with_text_encoders(TrainConfig config) {
  config.text_encoder_lr = {2e-3, 1e-3};
  return config;
}

}  // namespace eri
