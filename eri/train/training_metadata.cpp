#include "eri/train/training_metadata.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>

#include "eri/lora/metadata.h"

namespace eri {
namespace {

using nlohmann::json;

std::string trimmed(std::string_view text) {
  constexpr const char* white = " \t\r\n";
  const size_t begin = text.find_first_not_of(white);
  return begin == text.npos ? "" : std::string(text.substr(begin, text.find_last_not_of(white) - begin + 1));
}

// Captions split at commas, in lower case, and how often each part occurs.
std::map<std::string, int64_t> tag_frequency(const ImageDataset& dataset) {
  std::map<std::string, int64_t> count;
  for (const Sample& sample : dataset.samples()) {
    std::string_view rest = sample.caption;
    while (!rest.empty()) {
      const size_t comma = std::min(rest.find(','), rest.size());
      std::string tag = trimmed(rest.substr(0, comma));
      std::transform(tag.begin(), tag.end(), tag.begin(),
                     [](unsigned char c) { return c < 128 ? std::tolower(c) : c; });
      if (!tag.empty()) ++count[tag];
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
  }
  return count;
}

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

std::string folder_name(const TrainConfig& config) {
  const auto path = std::filesystem::path(config.train_data_dir).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

}  // namespace

flame::Metadata training_metadata(const TrainConfig& config, const ImageDataset& dataset,
                                  const TrainingProgress& progress) {
  int64_t images = 0;
  for (const Sample& sample : dataset.samples()) images += sample.repeats;
  const auto& [width, height] = config.resolution;
  const std::string folder = folder_name(config);
  const json directories = {{folder, {{"n_repeats", 1}, {"img_count", dataset.size()}}}};
  const json tags = {{folder, tag_frequency(dataset)}};
  const auto integer = [](int64_t value) { return std::to_string(value); };
  const auto boolean = [](bool value) { return value ? "True" : "False"; };
  const auto or_none = [](double value) { return value != 0 ? python_text(value) : "None"; };
  return {
      {"ss_learning_rate", python_text(config.learning_rate)},
      {"ss_lr_scheduler", config.lr_scheduler},
      {"ss_lr_warmup_steps", integer(config.lr_warmup_steps)},
      {"ss_max_train_steps", integer(config.max_train_steps)},
      {"ss_steps", integer(progress.steps)},
      {"ss_epoch", integer(progress.epochs)},
      {"ss_num_epochs",
       integer((config.max_train_steps * config.train_batch_size * config.gradient_accumulation_steps + images - 1) /
               images)},
      {"ss_batch_size_per_device", integer(config.train_batch_size)},
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
      {"ss_resolution", flame::text("(", width, ", ", height, ")")},
      {"ss_num_train_images", integer(images)},
      {"ss_dataset_dirs", directories.dump()},
      {"ss_tag_frequency", tags.dump()},
      {"ss_training_started_at", python_text(progress.started_at)},
      {"ss_training_finished_at", python_text(progress.now)},
      {"modelspec.date", iso_date(progress.now)},
      {"modelspec.resolution", flame::text(width, "x", height)},
      {"modelspec.prediction_type", progress.prediction_type},
  };
}

}  // namespace eri
