#include "eri/train/training_metadata.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <span>

#include "eri/lora/metadata.h"
#include "eri/train/dataset_metadata.h"

namespace eri {
namespace {

std::string iso_date(double seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm utc;
  ::gmtime_r(&time, &utc);
  char out[32];
  std::strftime(out, sizeof out, "%Y-%m-%dT%H:%M:%S", &utc);
  return out;
}

// "Prodigy(weight_decay=0.01,d_coef=2)"
std::string optimizer_text(const TrainConfig& config) {
  std::string args = config.optimizer_args;
  std::replace(args.begin(), args.end(), ' ', ',');
  if (("," + args).find(",weight_decay=") == std::string::npos)
    args = flame::text("weight_decay=", python_text(config.weight_decay), args.empty() ? "" : ",", args);
  return flame::text(config.optimizer_type, "(", args, ")");
}

std::string with_commas(std::span<const double> numbers) {
  std::string list;
  for (const double number : numbers) list.append(list.empty() ? "" : ",").append(python_text(number));
  return list;
}

// What sd-scripts and LyCORIS take as network_args, as they would be given it: texts.
std::string network_arguments(const TrainConfig& config) {
  nlohmann::json arguments = nlohmann::json::object();
  const auto add = [&](const char* name, bool said) {
    if (said) arguments[name] = value_of(config, *find_key(name));
  };
  for (const char* name : {"conv_dim", "conv_alpha"}) add(name, config.conv_dim > 0);
  for (const char* name : {"block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"})
    add(name, !value_of(config, *find_key(name)).empty());
  // sd-scripts leaves the first block and the last out, which have no layers to learn.
  const std::span<const double> weights = config.block_lr_weight;
  if (weights.size() >= 5) {
    const size_t outer = (weights.size() - 5) / 2;
    arguments["down_lr_weight"] = with_commas(weights.subspan(1, outer));
    arguments["mid_lr_weight"] = with_commas(weights.subspan(1 + outer, 3));
    arguments["up_lr_weight"] = with_commas(weights.subspan(4 + outer, outer));
  }
  if (config.lora_preset != "auto") arguments["preset"] = config.lora_preset;
  const LoraOptions lora = lora_options(config);
  const auto add_patterns = [&](const char* name, const std::vector<std::string>& patterns) {
    std::string list;
    for (const std::string& pattern : patterns) list.append(list.empty() ? "[r'" : ", r'").append(pattern).append("'");
    if (!list.empty()) arguments[name] = list + "]";
  };
  add_patterns("exclude_patterns", lora.exclude_patterns);
  add_patterns("include_patterns", lora.include_patterns);
  return arguments.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string list_or_none(const std::vector<double>& numbers) {
  std::string list;
  for (const double number : numbers) list += (list.empty() ? "" : ", ") + python_text(number);
  return list.empty() ? "None" : "[" + list + "]";
}

// What people write of the file themselves.
flame::Metadata own_words(const TrainConfig& config) {
  flame::Metadata metadata = {{"modelspec.title", config.metadata_title},
                              {"modelspec.author", config.metadata_author},
                              {"modelspec.description", config.metadata_description},
                              {"modelspec.license", config.metadata_license},
                              {"modelspec.tags", config.metadata_tags},
                              {"modelspec.usage_hint", config.metadata_usage_hint},
                              {"modelspec.trigger_phrase", config.metadata_trigger_phrase}};
  std::erase_if(metadata, [](const auto& entry) { return entry.second.empty(); });
  return metadata;
}

}  // namespace

flame::Metadata training_metadata(const TrainConfig& config, const ImageDataset& dataset,
                                  const TrainingProgress& progress) {
  const auto& [width, height] = config.resolution;
  const auto integer = [](int64_t value) { return std::to_string(value); };
  const auto boolean = [](bool value) { return value ? "True" : "False"; };
  const auto or_none = [](double value) { return value != 0 ? python_text(value) : "None"; };
  flame::Metadata metadata = {
      {"ss_session_id", std::to_string(progress.session)},
      {"ss_learning_rate", python_text(config.learning_rate)},
      {"ss_unet_lr", config.unet_lr ? python_text(*config.unet_lr) : "None"},
      {"ss_text_encoder_lr", list_or_none(config.text_encoder_lr)},
      {"ss_network_args", network_arguments(config)},
      {"ss_lr_scheduler", config.lr_scheduler},
      {"ss_lr_warmup_steps", integer(config.lr_warmup_steps)},
      {"ss_max_train_steps", integer(config.max_train_steps)},
      {"ss_steps", integer(progress.steps)},
      {"ss_epoch", integer(progress.epochs)},
      {"ss_gradient_accumulation_steps", integer(config.gradient_accumulation_steps)},
      {"ss_max_grad_norm", python_text(config.max_grad_norm)},
      {"ss_min_snr_gamma", or_none(config.min_snr_gamma)},
      {"ss_debiased_estimation", boolean(config.debiased_estimation_loss)},
      {"ss_scale_v_pred_loss_like_noise_pred", boolean(config.scale_v_pred_loss_like_noise_pred)},
      {"ss_v_pred_like_loss", or_none(config.v_pred_like_loss)},
      {"ss_loss_type", config.loss_type},
      {"ss_huber_schedule", config.huber_schedule},
      {"ss_huber_c", python_text(config.huber_c)},
      {"ss_huber_scale", python_text(config.huber_scale)},
      {"ss_noise_offset", or_none(config.noise_offset)},
      {"ss_noise_offset_random_strength", boolean(config.noise_offset_random_strength)},
      {"ss_adaptive_noise_scale", or_none(config.adaptive_noise_scale)},
      {"ss_multires_noise_iterations",
       config.multires_noise_iterations > 0 ? integer(config.multires_noise_iterations) : "None"},
      {"ss_multires_noise_discount", python_text(config.multires_noise_discount)},
      {"ss_ip_noise_gamma", or_none(config.ip_noise_gamma)},
      {"ss_ip_noise_gamma_random_strength", boolean(config.ip_noise_gamma_random_strength)},
      {"ss_optimizer", optimizer_text(config)},
      {"ss_seed", integer(config.seed)},
      {"ss_max_token_length", config.max_token_length == 75 ? "None" : integer(config.max_token_length)},
      {"ss_mixed_precision", config.mixed_precision},
      {"ss_full_fp16", "False"},
      {"ss_fp8_base", "False"},
      {"ss_fp8_base_unet", "False"},
      {"ss_lowram", "False"},
      {"ss_cache_latents", "True"},
      {"ss_gradient_checkpointing", boolean(progress.gradient_checkpointing)},
      {"ss_zero_terminal_snr", boolean(progress.zero_terminal_snr)},
      {"ss_clip_skip", "None"},
      {"ss_network_dropout", "None"},
      {"ss_scale_weight_norms", "None"},
      {"ss_training_comment", config.training_comment.empty() ? "None" : config.training_comment},
      {"ss_training_started_at", python_text(progress.started_at)},
      {"ss_training_finished_at", python_text(progress.now)},
      {"modelspec.date", iso_date(progress.now)},
      {"modelspec.resolution", flame::text(width, "x", height)},
      {"modelspec.prediction_type", progress.prediction_type},
      {"modelspec.timestep_range", flame::text(config.min_timestep, ",", config.max_timestep)},
  };
  metadata.merge(dataset_metadata(dataset, config));
  metadata.merge(own_words(config));
  return metadata;
}

flame::Metadata untrained_metadata(const Checkpoint& checkpoint, int64_t seed, double now) {
  const Parametrization& model = checkpoint.parametrization();
  flame::Metadata metadata = {
      {"ss_training_comment", "random factors, written by eri init-lora: not trained"},
      {"ss_learning_rate", "0.0"},
      {"ss_optimizer", "None"},
      {"ss_max_train_steps", "0"},
      {"ss_steps", "0"},
      {"ss_epoch", "0"},
      {"ss_num_epochs", "0"},
      {"ss_num_train_images", "0"},
      {"ss_seed", std::to_string(seed)},
      {"ss_mixed_precision", "no"},
      {"ss_resolution", "None"},
      {"ss_dataset_dirs", "{}"},
      {"ss_tag_frequency", "{}"},
      {"ss_zero_terminal_snr", model.zero_terminal_snr ? "True" : "False"},
      {"ss_training_started_at", python_text(now)},
      {"ss_training_finished_at", python_text(now)},
      {"modelspec.date", iso_date(now)},
      {"modelspec.resolution", "1024x1024"},  // SDXL's own, as sd-scripts has it where nothing is said
      {"modelspec.prediction_type", model.v_prediction ? "v" : "epsilon"},
  };
  metadata.merge(base_model_metadata(checkpoint.paths()));
  return metadata;
}

}  // namespace eri
