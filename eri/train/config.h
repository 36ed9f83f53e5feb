#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "eri/diffusion/diffusion_loss.h"
#include "eri/diffusion/training_noise.h"
#include "eri/lora/lora_options.h"
#include "eri/models/checkpoint.h"
#include "flame/core/dtype.h"
#include "flame/device/device.h"

namespace eri {

struct Resolution {
  int64_t width = 1024, height = 1024;
};

// What a training run is told, under kohya's names. A relative path is relative to the working directory.
struct TrainConfig {
  std::string pretrained_model_name_or_path, unet, vae, clip_l, clip_g;
  std::optional<bool> v_parameterization, zero_terminal_snr;  // none: as the checkpoint says
  std::string train_data_dir;
  std::string caption_extension = ".txt";
  int64_t max_token_length = 75;
  Resolution resolution;
  std::string output_dir = "output";
  std::string output_name = "lora";
  int64_t network_dim = 16;
  double network_alpha = 16;
  int64_t conv_dim = 0;
  double conv_alpha = 1;
  std::vector<int64_t> block_dims, conv_block_dims;  // one for each block of the UNet, or none at all
  std::vector<double> block_alphas, conv_block_alphas, block_lr_weight;
  std::string lora_preset = "auto";
  std::string include_patterns, exclude_patterns;  // apart by spaces
  double learning_rate = 1e-4;
  std::optional<double> unet_lr;        // none: learning_rate
  std::vector<double> text_encoder_lr;  // none: 0; one: of both text encoders; two: of CLIP-L and CLIP-G
  std::string lr_scheduler = "constant";
  int64_t lr_warmup_steps = 0;
  int64_t lr_scheduler_num_cycles = 1;
  double lr_scheduler_power = 1;
  int64_t max_train_steps = 1600;
  int64_t train_batch_size = 1;
  int64_t gradient_accumulation_steps = 1;
  double max_grad_norm = 1;
  double min_snr_gamma = 0;
  bool debiased_estimation_loss = false;
  bool scale_v_pred_loss_like_noise_pred = false;
  double v_pred_like_loss = 0;
  std::string loss_type = "l2";
  std::string huber_schedule = "snr";
  double huber_c = 0.1;
  double huber_scale = 1;
  double noise_offset = 0;
  bool noise_offset_random_strength = false;
  double adaptive_noise_scale = 0;
  int64_t multires_noise_iterations = 0;
  double multires_noise_discount = 0.3;
  double ip_noise_gamma = 0;
  bool ip_noise_gamma_random_strength = false;
  int64_t min_timestep = 0;
  int64_t max_timestep = 1000;
  std::string optimizer_type = "AdamW";
  std::string optimizer_args;
  double weight_decay = 0.01;
  int64_t seed = 42;
  int64_t save_every_n_steps = 0;
  bool save_state = true;
  std::string sample_prompts;
  int64_t sample_every_n_steps = 0;
  bool sample_at_first = false;
  std::string sample_sampler = "euler";
  std::string sample_scheduler = "normal";
  bool minimal_metadata = false;
  std::string metadata_title, metadata_author, metadata_description, metadata_license, metadata_tags,
      metadata_usage_hint, metadata_trigger_phrase;
  std::string training_comment;
  std::string resume;
  std::string device = "auto";
  std::string mixed_precision = "auto";
  bool no_half_vae = false;
  int64_t threads = 0;
  double max_vram = 0;  // GiB
  bool allow_tf32 = false;
  std::string memory_policy = "lean";
  bool cuda_graph = true;
  bool deterministic = false;
};

LoraOptions lora_options(const TrainConfig& config);
LossOptions loss_options(const TrainConfig& config);
NoiseOptions noise_options(const TrainConfig& config);

// What a frozen model computes in: f32 ("no", "f32"), f16 ("fp16", "f16"), bf16, or for "auto" bf16 on a GPU and f32 on
// the CPU. Throws for another name. What is trained stays f32.
flame::DType compute_dtype(std::string_view name, flame::Device device);
const char* mixed_precision_name(flame::DType dtype);  // kohya's

ModelFiles model_files(const TrainConfig& config);

// What of a GPU's memory is not ours to share out: the driver's context, the libraries' kernels, captured steps. 0.71
// GiB on an H100 while it trains SDXL.
inline constexpr double driver_gib = 0.75;
// The bytes that buffers may take where nvidia-smi is to show no more than `max_vram` GiB; 0 (no limit) for 0. Throws
// where nothing is left.
size_t buffer_limit(double max_vram);

// One key: what TOML, the command line, the help and a saved run know about it.
struct ConfigKey {
  using Member =
      std::variant<std::string TrainConfig::*, int64_t TrainConfig::*, double TrainConfig::*, bool TrainConfig::*,
                   Resolution TrainConfig::*, std::optional<bool> TrainConfig::*, std::optional<double> TrainConfig::*,
                   std::vector<int64_t> TrainConfig::*, std::vector<double> TrainConfig::*>;
  const char* name;
  Member member;
  const char* group;
  const char* help;
};
std::span<const ConfigKey> config_keys();
inline constexpr const char* network_group = "LoRA";  // the keys of lora_options()
inline constexpr const char* output_group = "Output";
inline constexpr const char* metadata_group = "Metadata of the LoRA file";

// Reads the keys of a TOML file into `config`; keys may stand in sections, whose names do not matter. Throws a line for
// each that is wrong, with the file, the line and the key; for an unknown key also a close one, or what to do instead
// of sd-scripts'.
void read_toml(const std::filesystem::path& file, TrainConfig& config);

// Sets one key from a command-line value.
void set_value(TrainConfig& config, const ConfigKey& key, std::string_view value);
std::string value_of(const TrainConfig& config, const ConfigKey& key);  // as set_value takes it
const char* type_name(const ConfigKey& key);                            // for the help: "INT", "TEXT", ...
const ConfigKey* find_key(std::string_view name);                       // null if there is none; '-' counts as '_'

// Throws naming every key whose value cannot be, all at once.
void validate(const TrainConfig& config);

}  // namespace eri
