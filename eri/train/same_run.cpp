#include "eri/train/same_run.h"

#include <algorithm>
#include <iterator>

#include "eri/lora/sdxl_lora.h"
#include "eri/train/optimizers.h"
#include "flame/core/error.h"
#include "flame/optim/learning_rate.h"

namespace eri {
namespace {

using flame::fail;

// Whether another value leaves the numbers as they are: of what is written, and of where files are and work is done.
bool is_free(const ConfigKey& key) {
  constexpr std::string_view others[] = {"pretrained_model_name_or_path",
                                         "unet",
                                         "vae",
                                         "clip_l",
                                         "clip_g",
                                         "train_data_dir",
                                         "device",
                                         "threads",
                                         "max_vram",
                                         "deterministic",
                                         "memory_policy",
                                         "cuda_graph",
                                         "max_train_steps"};
  const std::string_view group = key.group;
  return group == output_group || group == metadata_group ||
         std::find(std::begin(others), std::end(others), key.name) != std::end(others);
}

// Keys whose values mean something together.
using Keys = std::vector<const ConfigKey*>;

Keys optimizer_keys() { return {find_key("optimizer_type"), find_key("optimizer_args"), find_key("weight_decay")}; }

Keys model_keys() { return {find_key("v_parameterization"), find_key("zero_terminal_snr")}; }

Keys lora_keys() {
  Keys keys = {find_key("unet_lr"), find_key("text_encoder_lr")};
  for (const ConfigKey& key : config_keys())
    if (key.group == std::string_view(network_group)) keys.push_back(&key);
  return keys;
}

std::string optimizer_of(const TrainConfig& config) {
  return optimizer_in_full(config.optimizer_type, config.optimizer_args, config.weight_decay);
}

// What the model of `now` predicts where it is told what `config` tells it.
std::string prediction_of(const TrainConfig& config, const TrainConfig& now) {
  ModelFiles files = model_files(now);
  files.v_parameterization = config.v_parameterization;
  files.zero_terminal_snr = config.zero_terminal_snr;
  return prediction_of(Checkpoint(files));
}

// What the model predicted; as today's files have it where the state does not know.
std::string prediction_of(const RunState& before, const TrainConfig& now) {
  const auto known = before.base.find("prediction");
  return known != before.base.end() ? known->second : prediction_of(before.config, now);
}

// Layer by layer.
bool is_same_lora(const TrainConfig& before, const TrainConfig& now) {
  const LoraSites sites = sdxl_lora_sites(Checkpoint(model_files(now)));
  const LoraPlan plan = plan_lora(sites, lora_options(now));
  try {
    return plan_lora(sites, lora_options(before)) == plan;
  } catch (const flame::Error&) {
    return false;  // it was of another model
  }
}

// The settings of `state` in the words of `now`, where these mean the same.
TrainConfig in_words_of(const TrainConfig& now, const RunState& state) {
  TrainConfig before = state.config;
  const auto adopt = [&](const Keys& keys, const auto& mean_the_same) {
    const bool differ = std::any_of(
        keys.begin(), keys.end(), [&](const ConfigKey* key) { return value_of(before, *key) != value_of(now, *key); });
    if (!differ || !mean_the_same()) return;
    for (const ConfigKey* key : keys) set_value(before, *key, value_of(now, *key));
  };
  adopt(optimizer_keys(), [&] { return optimizer_of(before) == optimizer_of(now); });
  adopt(model_keys(), [&] { return prediction_of(state, now) == prediction_of(now, now); });
  adopt(lora_keys(), [&] { return is_same_lora(before, now); });
  return before;
}

void require_same_base(const RunState& before, const TrainConfig& now) {
  if (before.base.empty()) return;
  const BaseFingerprint base = base_fingerprint(Checkpoint(model_files(now)));
  const auto differs = [&](const char* part) {
    const auto was = before.base.find(part);
    return was != before.base.end() && was->second != base.at(part);
  };
  const auto owner = [](const TrainConfig& config, std::string TrainConfig::*own) {
    return (config.*own).empty() ? config.pretrained_model_name_or_path : config.*own;
  };
  std::string others;
  const auto tell = [&](const char* what, std::string TrainConfig::*own) {
    others += flame::text(others.empty() ? "" : " and ", "another ", what, " (that of ", owner(before.config, own),
                          ", now of ", owner(now, own), ")");
  };
  const bool other_model = now.unet.empty() && differs("UNet");
  if (other_model) tell("base model", &TrainConfig::unet);
  constexpr std::pair<const char*, std::string TrainConfig::*> parts[] = {{"UNet", &TrainConfig::unet},
                                                                          {"VAE", &TrainConfig::vae},
                                                                          {"CLIP-L", &TrainConfig::clip_l},
                                                                          {"CLIP-G", &TrainConfig::clip_g}};
  for (const auto& [part, own] : parts) {
    if (differs(part) && !(other_model && (now.*own).empty())) tell(part, own);
  }
  if (!others.empty())
    fail("resume: ", now.resume, " was trained with ", others, "; give the same, or start a new run");
  if (differs("prediction"))
    fail("resume: ", now.resume, " was trained on a model that predicts ", before.base.at("prediction"), ", now it is ",
         base.at("prediction"), "; give the same model or v_parameterization, or start a new run");
}

}  // namespace

void require_same_run(const RunState& before, const TrainConfig& now) {
  const TrainConfig then = in_words_of(now, before);
  const auto word = [](const TrainConfig& config, const ConfigKey& key) {
    const std::string value = value_of(config, key);
    return value.empty() ? "none" : value;
  };
  std::string differences;
  for (const ConfigKey& key : config_keys()) {
    if (is_free(key) || value_of(then, key) == value_of(now, key)) continue;
    differences += flame::text(key.name, " = ", word(then, key), ", now it is ", word(now, key), "; ");
  }
  if (!differences.empty())
    fail("resume: ", now.resume, " was trained with ", differences, "use the same, or start a new run");
  if (before.step > now.max_train_steps)
    fail("resume: ", now.resume, " is at step ", before.step, ", beyond max_train_steps = ", now.max_train_steps,
         "; give more, or an earlier state");
  require_same_base(before, now);
}

std::string other_rates(const RunState& before, const TrainConfig& now) {
  using Kind = flame::LearningRateSchedule::Kind;
  const Kind kind = flame::LearningRateSchedule::parse(now.lr_scheduler);
  const int64_t was = before.config.max_train_steps, is = now.max_train_steps;
  if (was == is || kind == Kind::constant || kind == Kind::constant_with_warmup) return "";
  return flame::text("max_train_steps was ", was, ", now it is ", is, ": from step ", before.step + 1,
                     " on the learning rate is that of a run of ", is, " steps (lr_scheduler = ", now.lr_scheduler,
                     ")");
}

}  // namespace eri
