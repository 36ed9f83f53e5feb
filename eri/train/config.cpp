#include "eri/train/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <sstream>

#include "eri/data/caption.h"
#include "eri/models/fused_unet.h"
#include "eri/sampling/sample_request.h"
#include "eri/train/optimizers.h"
#include "eri/train/sd_scripts_keys.h"
#include "flame/core/closest.h"
#include "flame/core/error.h"
#include "flame/optim/learning_rate.h"

namespace eri {
namespace {

using flame::fail;
using flame::text;

constexpr const char *model_group = "Model and pictures", *training_group = "Training", *loss_group = "Loss",
                     *noise_group = "Noise", *machine_group = "Machine";

constexpr ConfigKey keys[] = {
    {"pretrained_model_name_or_path", &TrainConfig::pretrained_model_name_or_path, model_group,
     "the SDXL model to train on, a .safetensors file or a diffusers folder; --model for short"},
    {"unet", &TrainConfig::unet, model_group, "a UNet in a file or folder of its own, in place of the model's"},
    {"vae", &TrainConfig::vae, model_group, "a VAE, such as sdxl_vae.safetensors, in place of the model's"},
    {"clip_l", &TrainConfig::clip_l, model_group,
     "the text encoder CLIP-L, such as clip_l.safetensors, in place of the model's"},
    {"clip_g", &TrainConfig::clip_g, model_group,
     "the text encoder CLIP-G, such as clip_g.safetensors, in place of the model's"},
    {"v_parameterization", &TrainConfig::v_parameterization, model_group,
     "the model predicts v, or not; auto: as the checkpoint says"},
    {"zero_terminal_snr", &TrainConfig::zero_terminal_snr, model_group,
     "its last step is noise alone, or not; auto: as the checkpoint says"},
    {"train_data_dir", &TrainConfig::train_data_dir, model_group,
     "folder of pictures (JPEG, PNG, WebP), each with its caption in a text file of the same name"},
    {"caption_extension", &TrainConfig::caption_extension, model_group, "ending of the caption files"},
    {"max_token_length", &TrainConfig::max_token_length, model_group,
     "how much of a caption is used, in tokens: 75, 150, 225 or a larger multiple of 75"},
    {"resolution", &TrainConfig::resolution, model_group,
     "size that pictures are resized and cropped to: 1024, or width,height"},
    {"network_dim", &TrainConfig::network_dim, network_group, "rank of the LoRA"},
    {"network_alpha", &TrainConfig::network_alpha, network_group, "its strength is network_alpha / network_dim"},
    {"conv_dim", &TrainConfig::conv_dim, network_group,
     "rank of 3x3 convolutions, which get a LoRA with it, as do the other layers of ResBlocks; 0: none of them does"},
    {"conv_alpha", &TrainConfig::conv_alpha, network_group, "their strength is conv_alpha / conv_dim"},
    {"block_dims", &TrainConfig::block_dims, network_group,
     "ranks of the UNet's blocks as kohya numbers them, 23 for SDXL, in place of network_dim; 0: no LoRA there"},
    {"block_alphas", &TrainConfig::block_alphas, network_group, "alphas of the same blocks, in place of network_alpha"},
    {"conv_block_dims", &TrainConfig::conv_block_dims, network_group,
     "ranks of their 3x3 convolutions, in place of conv_dim; 0: no LoRA there"},
    {"conv_block_alphas", &TrainConfig::conv_block_alphas, network_group,
     "and the alphas of these, in place of conv_alpha"},
    {"block_lr_weight", &TrainConfig::block_lr_weight, network_group,
     "factors of the learning rate of the same blocks, in place of 1 each; 0: no LoRA there"},
    {"lora_preset", &TrainConfig::lora_preset, network_group,
     "which layers get a LoRA, in LyCORIS' words: attn-mlp, attn-only, full, full-lin, unet-only, "
     "unet-transformer-only, unet-convblock-only; auto: attn-mlp, or with conv_dim or conv_block_dims full"},
    {"exclude_patterns", &TrainConfig::exclude_patterns, network_group,
     "regular expressions for names of layers that get none, apart by spaces, such as .*attn2.*, or a list in TOML; "
     "otherwise none is left out"},
    {"include_patterns", &TrainConfig::include_patterns, network_group,
     "the same for those of them that get one all the same; otherwise none does"},
    {"learning_rate", &TrainConfig::learning_rate, training_group, "step size of the optimiser"},
    {"unet_lr", &TrainConfig::unet_lr, training_group, "that of the UNet's LoRA; auto: learning_rate"},
    {"text_encoder_lr", &TrainConfig::text_encoder_lr, training_group,
     "trains the text encoders too, at this learning rate; two, 5e-5,1e-5: of CLIP-L and of CLIP-G, 0: not that one"},
    {"lr_scheduler", &TrainConfig::lr_scheduler, training_group,
     "constant, constant_with_warmup, linear, cosine, cosine_with_restarts or polynomial"},
    {"lr_warmup_steps", &TrainConfig::lr_warmup_steps, training_group, "steps in which the learning rate rises from 0"},
    {"lr_scheduler_num_cycles", &TrainConfig::lr_scheduler_num_cycles, training_group,
     "how often cosine_with_restarts begins anew"},
    {"lr_scheduler_power", &TrainConfig::lr_scheduler_power, training_group, "of polynomial; 1 is a straight line"},
    {"max_train_steps", &TrainConfig::max_train_steps, training_group, "steps of the whole run"},
    {"train_batch_size", &TrainConfig::train_batch_size, training_group, "pictures at a time"},
    {"gradient_accumulation_steps", &TrainConfig::gradient_accumulation_steps, training_group,
     "batches whose gradients make one step"},
    {"max_grad_norm", &TrainConfig::max_grad_norm, training_group, "longer gradients are scaled down to it; 0: never"},
    {"loss_type", &TrainConfig::loss_type, loss_group, "what errors cost: l2, l1, huber or smooth_l1"},
    {"huber_schedule", &TrainConfig::huber_schedule, loss_group,
     "where huber and smooth_l1 go over from squares to sizes: at huber_c (constant), or beyond it where there is "
     "little noise (exponential, snr)"},
    {"huber_c", &TrainConfig::huber_c, loss_group, "the least error that they do so at"},
    {"huber_scale", &TrainConfig::huber_scale, loss_group, "multiplies it (constant, exponential)"},
    {"min_snr_gamma", &TrainConfig::min_snr_gamma, loss_group, "min-SNR loss weighting, usually 5; 0: none"},
    {"debiased_estimation_loss", &TrainConfig::debiased_estimation_loss, loss_group,
     "weighs noisy pictures more: 1 / sqrt(SNR), for v 1 / (SNR + 1)"},
    {"scale_v_pred_loss_like_noise_pred", &TrainConfig::scale_v_pred_loss_like_noise_pred, loss_group,
     "v-prediction models: weighs timesteps as if the noise were predicted"},
    {"v_pred_like_loss", &TrainConfig::v_pred_like_loss, loss_group,
     "epsilon-prediction models: adds so much of the loss that predicting v would have; 0: none"},
    {"noise_offset", &TrainConfig::noise_offset, noise_group,
     "noise of one value a channel, for darker and brighter pictures; usually 0.05 to 0.1, 0: none"},
    {"noise_offset_random_strength", &TrainConfig::noise_offset_random_strength, noise_group,
     "a random part of it in each step"},
    {"adaptive_noise_scale", &TrainConfig::adaptive_noise_scale, noise_group,
     "more noise_offset, by this much of the size of a channel's mean; may be negative"},
    {"multires_noise_iterations", &TrainConfig::multires_noise_iterations, noise_group,
     "noise of so many resolutions, usually 6 to 10; 0: none"},
    {"multires_noise_discount", &TrainConfig::multires_noise_discount, noise_group,
     "how much weaker each coarser one is"},
    {"ip_noise_gamma", &TrainConfig::ip_noise_gamma, noise_group,
     "input perturbation: noise that the network sees and is not asked for, usually 0.1; 0: none"},
    {"ip_noise_gamma_random_strength", &TrainConfig::ip_noise_gamma_random_strength, noise_group,
     "a random part of it in each step"},
    {"min_timestep", &TrainConfig::min_timestep, noise_group, "the least noisy timestep that is trained, of 1000"},
    {"max_timestep", &TrainConfig::max_timestep, noise_group, "all that are trained are below it"},
    {"optimizer_type", &TrainConfig::optimizer_type, training_group,
     "AdamW, AdamW8bit, Lion, AdaFactor, Prodigy or AdamWScheduleFree"},
    {"optimizer_args", &TrainConfig::optimizer_args, training_group,
     "its own arguments, under the names of its Python original: \"betas=0.9,0.99 weight_decay=0.1\", or a list in "
     "TOML"},
    {"weight_decay", &TrainConfig::weight_decay, training_group, "weight decay, where optimizer_args has none"},
    {"seed", &TrainConfig::seed, training_group, "everything random follows from it"},
    {"output_dir", &TrainConfig::output_dir, output_group, "folder for the LoRA, made if it does not exist"},
    {"output_name", &TrainConfig::output_name, output_group, "name of the LoRA file, without .safetensors"},
    {"save_every_n_steps", &TrainConfig::save_every_n_steps, output_group, "save on the way; 0: only at the end"},
    {"save_state", &TrainConfig::save_state, output_group, "save beside each LoRA what --resume needs"},
    {"sample_prompts", &TrainConfig::sample_prompts, output_group,
     "prompts to draw on the way, a text file, one a line, with --n, --w, --h, --d, --l, --s, --ss at its end as in "
     "sd-scripts"},
    {"sample_every_n_steps", &TrainConfig::sample_every_n_steps, output_group,
     "draw them each time that so many steps are done; 0: never"},
    {"sample_at_first", &TrainConfig::sample_at_first, output_group, "draw them before the first step"},
    {"sample_sampler", &TrainConfig::sample_sampler, output_group,
     "how they are drawn: a sampler of `eri sample`, or sd-scripts' name of one"},
    {"sample_scheduler", &TrainConfig::sample_scheduler, output_group, "and over which noise levels"},
    {"resume", &TrainConfig::resume, output_group, "go on from a saved ...-state folder, bit for bit"},
    {"minimal_metadata", &TrainConfig::minimal_metadata, metadata_group,
     "only what programs need to load it, and the metadata_... below: nothing of pictures, models, settings and dates"},
    {"metadata_title", &TrainConfig::metadata_title, metadata_group, "its title; otherwise the file's name"},
    {"metadata_author", &TrainConfig::metadata_author, metadata_group, "who made it"},
    {"metadata_description", &TrainConfig::metadata_description, metadata_group, "what it is"},
    {"metadata_license", &TrainConfig::metadata_license, metadata_group, "its license"},
    {"metadata_tags", &TrainConfig::metadata_tags, metadata_group, "tags with commas between them"},
    {"metadata_usage_hint", &TrainConfig::metadata_usage_hint, metadata_group, "how to use it"},
    {"metadata_trigger_phrase", &TrainConfig::metadata_trigger_phrase, metadata_group, "what calls for it in a prompt"},
    {"training_comment", &TrainConfig::training_comment, metadata_group,
     "a note of the training (ss_training_comment)"},
    {"device", &TrainConfig::device, machine_group, "auto (a GPU if there is one), cpu or cuda:0"},
    {"mixed_precision", &TrainConfig::mixed_precision, machine_group,
     "what the frozen model computes in: no, bf16, fp16 or auto (bf16 on a GPU); the LoRA stays f32"},
    {"no_half_vae", &TrainConfig::no_half_vae, machine_group,
     "the autoencoder computes in f32 on a GPU too, not in bf16"},
    {"threads", &TrainConfig::threads, machine_group, "CPU threads; 0: all cores"},
    {"max_vram", &TrainConfig::max_vram, machine_group,
     "the most of a GPU's memory to use, in GiB, 0.75 of it for the driver; 0: no limit"},
    {"allow_tf32", &TrainConfig::allow_tf32, machine_group, "products of f32 on a GPU may round their factors to TF32"},
    {"memory_policy", &TrainConfig::memory_policy, machine_group,
     "what a GPU keeps for the backward pass, the most and fastest first: lean, ff, attn_ff or block"},
    {"cuda_graph", &TrainConfig::cuda_graph, machine_group,
     "launch a whole step on a GPU at once; false: kernel by kernel, for debuggers"},
    {"deterministic", &TrainConfig::deterministic, machine_group,
     "the same bits every time, which makes attention on a GPU slower; the CPU's are always the same"},
};

template <class... F>
struct Overload : F... {
  using F::operator()...;
};

template <class Number>
Number parse_number(const ConfigKey& key, std::string_view value, const char* expected) {
  Number number{};
  auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size())
    fail(key.name, ": expected ", expected, ", got '", value, "'");
  return number;
}

Resolution parse_resolution(const ConfigKey& key, std::string_view value) {
  const char* expected = "one size or width,height, such as 1024 or 1024,768";
  const size_t comma = value.find(',');
  const auto width = parse_number<int64_t>(key, value.substr(0, comma), expected);
  if (comma == value.npos) return {width, width};
  value.remove_prefix(comma + 1);
  while (value.starts_with(' ')) value.remove_prefix(1);
  return {width, parse_number<int64_t>(key, value, expected)};
}

template <class Number>
std::vector<Number> parse_numbers(const ConfigKey& key, std::string_view value, const char* expected) {
  std::vector<Number> numbers;
  if (value.ends_with(',')) fail(key.name, ": expected ", expected, ", got '", value, "'");
  while (!value.empty()) {
    const size_t comma = std::min(value.find(','), value.size());
    std::string_view each = value.substr(0, comma);
    while (each.starts_with(' ')) each.remove_prefix(1);
    while (each.ends_with(' ')) each.remove_suffix(1);
    numbers.push_back(parse_number<Number>(key, each, expected));
    value.remove_prefix(std::min(comma + 1, value.size()));
  }
  return numbers;
}

bool parse_bool(const ConfigKey& key, std::string_view value) {
  if (value == "true" || value == "1" || value == "yes" || value == "on") return true;
  if (value == "false" || value == "0" || value == "no" || value == "off") return false;
  fail(key.name, ": expected true or false, got '", value, "'");
}

std::string shortest(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}

template <class Number, class Write>
std::string with_commas(const std::vector<Number>& numbers, const Write& write) {
  std::string list;
  for (const Number number : numbers) list += (list.empty() ? "" : ",") + write(number);
  return list;
}

// What a TOML value is called in a message.
std::string kind_of(const toml::node& node) {
  std::ostringstream out;
  out << node.type();
  return out.str();
}

// The words of a list, apart by one space. White space in an argument of an optimiser has no meaning.
std::string joined(const toml::array& list, const ConfigKey& key) {
  const auto is_white = [](unsigned char c) { return std::isspace(c) != 0; };
  std::string words;
  for (const toml::node& node : list) {
    if (!node.is_string()) fail(key.name, ": expected strings in the list, got ", kind_of(node));
    if (!words.empty()) words += ' ';
    std::string word = **node.as_string();
    if (find_key("optimizer_args") != &key && std::any_of(word.begin(), word.end(), is_white))
      fail(key.name, ": '", word, "' has white space in it; in a regular expression it is written \\s");
    std::erase_if(word, is_white);
    words += word;
  }
  return words;
}

// A list of numbers, or a text with commas as sd-scripts has it.
template <class Number>
void read_numbers(const toml::node& node, const ConfigKey& key, TrainConfig& config, std::vector<Number>& numbers) {
  if (node.is_string()) return set_value(config, key, **node.as_string());
  if (!node.is_array()) fail(key.name, ": expected a list of numbers, got ", kind_of(node));
  numbers.clear();
  for (const toml::node& each : *node.as_array()) {
    const bool fits = std::is_integral_v<Number> ? each.is_integer() : each.is_number();
    if (!fits)
      fail(key.name, ": expected ", std::is_integral_v<Number> ? "integers" : "numbers", " in the list, got ",
           kind_of(each));
    numbers.push_back(*each.value<Number>());
  }
}

void read_value(const toml::node& node, const ConfigKey& key, TrainConfig& config) {
  std::visit(Overload{
                 [&](std::string TrainConfig::*member) {
                   const bool words = member == &TrainConfig::optimizer_args ||
                                      member == &TrainConfig::include_patterns ||
                                      member == &TrainConfig::exclude_patterns;
                   if (words && node.is_array()) {
                     config.*member = joined(*node.as_array(), key);
                     return;
                   }
                   if (!node.is_string()) fail(key.name, ": expected a string, got ", kind_of(node));
                   config.*member = **node.as_string();
                 },
                 [&](int64_t TrainConfig::*member) {
                   if (!node.is_integer()) fail(key.name, ": expected an integer, got ", kind_of(node));
                   config.*member = **node.as_integer();
                 },
                 [&](double TrainConfig::*member) {
                   if (!node.is_number()) fail(key.name, ": expected a number, got ", kind_of(node));
                   config.*member = *node.value<double>();
                 },
                 [&](bool TrainConfig::*member) {
                   if (!node.is_boolean()) fail(key.name, ": expected true or false, got ", kind_of(node));
                   config.*member = **node.as_boolean();
                 },
                 [&](Resolution TrainConfig::*) {
                   if (node.is_integer()) return set_value(config, key, text(**node.as_integer()));
                   if (node.is_string()) return set_value(config, key, **node.as_string());
                   fail(key.name, ": expected 1024 or \"1024,768\", got ", kind_of(node));
                 },
                 [&](std::optional<bool> TrainConfig::*member) {
                   if (node.is_string()) return set_value(config, key, **node.as_string());
                   if (!node.is_boolean()) fail(key.name, ": expected true, false or \"auto\", got ", kind_of(node));
                   config.*member = **node.as_boolean();
                 },
                 [&](std::optional<double> TrainConfig::*member) {
                   if (node.is_string()) return set_value(config, key, **node.as_string());
                   if (!node.is_number()) fail(key.name, ": expected a number or \"auto\", got ", kind_of(node));
                   config.*member = *node.value<double>();
                 },
                 [&](std::vector<int64_t> TrainConfig::*member) { read_numbers(node, key, config, config.*member); },
                 [&](std::vector<double> TrainConfig::*member) {
                   const bool is_one = member == &TrainConfig::text_encoder_lr && node.is_number();
                   if (!is_one) return read_numbers(node, key, config, config.*member);
                   config.*member = {*node.value<double>()};
                 },
             },
             key.member);
}

std::string no_such_key(std::string_view name) {
  const std::string start = text("there is no key '", name, "'");
  if (const std::string instead = instead_of_sd_scripts_key(name); !instead.empty()) return start + ": " + instead;
  std::vector<std::string> names;
  for (const ConfigKey& known : keys) names.emplace_back(known.name);
  const std::string match = flame::closest(name, names);
  return match.empty() ? start + "; eri train --help lists all keys" : start + "; did you mean '" + match + "'?";
}

// By the line that each is of.
using Complaints = std::multimap<toml::source_index, std::string>;

void read_table(const toml::table& table, TrainConfig& config, Complaints& complaints) {
  for (auto&& [name, node] : table) {
    if (node.is_table()) {
      read_table(*node.as_table(), config, complaints);
      continue;
    }
    const auto complain = [&](const std::string& what) { complaints.emplace(name.source().begin.line, what); };
    const ConfigKey* key = find_key(name.str());
    if (!key) {
      complain(no_such_key(name.str()));
      continue;
    }
    try {
      read_value(node, *key, config);
    } catch (const flame::Error& error) {
      complain(error.what());
    }
  }
}

}  // namespace

std::span<const ConfigKey> config_keys() { return keys; }

const ConfigKey* find_key(std::string_view name) {
  std::string wanted(name);
  std::replace(wanted.begin(), wanted.end(), '-', '_');
  if (wanted == "model") wanted = "pretrained_model_name_or_path";
  const auto* found = std::find_if(std::begin(keys), std::end(keys), [&](auto& key) { return wanted == key.name; });
  return found == std::end(keys) ? nullptr : found;
}

void read_toml(const std::filesystem::path& file, TrainConfig& config) {
  if (!std::filesystem::exists(file)) fail(file.string(), ": there is no such config file");
  toml::table table;
  try {
    table = toml::parse_file(file.string());
  } catch (const toml::parse_error& error) {
    fail(file.string(), ", line ", error.source().begin.line, ": ", error.description());
  }
  Complaints complaints;
  read_table(table, config, complaints);
  std::string all;
  for (const auto& [line, complaint] : complaints)
    all += text(all.empty() ? "" : "\n", file.string(), ", line ", line, ": ", complaint);
  if (!all.empty()) fail(all);
}

void set_value(TrainConfig& config, const ConfigKey& key, std::string_view value) {
  std::visit(
      Overload{
          [&](std::string TrainConfig::*member) { config.*member = value; },
          [&](int64_t TrainConfig::*member) { config.*member = parse_number<int64_t>(key, value, "an integer"); },
          [&](double TrainConfig::*member) { config.*member = parse_number<double>(key, value, "a number"); },
          [&](bool TrainConfig::*member) { config.*member = parse_bool(key, value); },
          [&](Resolution TrainConfig::*member) { config.*member = parse_resolution(key, value); },
          [&](std::optional<bool> TrainConfig::*member) {
            config.*member = value == "auto" ? std::nullopt : std::optional(parse_bool(key, value));
          },
          [&](std::optional<double> TrainConfig::*member) {
            config.*member =
                value == "auto" ? std::nullopt : std::optional(parse_number<double>(key, value, "a number or auto"));
          },
          [&](std::vector<int64_t> TrainConfig::*member) {
            config.*member = parse_numbers<int64_t>(key, value, "integers with commas");
          },
          [&](std::vector<double> TrainConfig::*member) {
            config.*member = parse_numbers<double>(key, value, "numbers with commas");
          },
      },
      key.member);
}

std::string value_of(const TrainConfig& config, const ConfigKey& key) {
  return std::visit(Overload{
                        [&](std::string TrainConfig::*member) { return config.*member; },
                        [&](int64_t TrainConfig::*member) { return std::to_string(config.*member); },
                        [&](double TrainConfig::*member) { return shortest(config.*member); },
                        [&](bool TrainConfig::*member) { return std::string(config.*member ? "true" : "false"); },
                        [&](Resolution TrainConfig::*member) {
                          const auto& [width, height] = config.*member;
                          return width == height ? text(width) : text(width, ",", height);
                        },
                        [&](std::optional<bool> TrainConfig::*member) {
                          const std::optional<bool>& value = config.*member;
                          return std::string(!value ? "auto" : *value ? "true" : "false");
                        },
                        [&](std::optional<double> TrainConfig::*member) {
                          const std::optional<double>& value = config.*member;
                          return value ? shortest(*value) : std::string("auto");
                        },
                        [&](std::vector<int64_t> TrainConfig::*member) {
                          return with_commas(config.*member, [](int64_t value) { return std::to_string(value); });
                        },
                        [&](std::vector<double> TrainConfig::*member) { return with_commas(config.*member, shortest); },
                    },
                    key.member);
}

LoraOptions lora_options(const TrainConfig& config) {
  const auto words = [](const std::string& list) {
    std::istringstream in(list);
    return std::vector<std::string>(std::istream_iterator<std::string>(in), {});
  };
  LoraOptions options = {.dim = config.network_dim,
                         .alpha = config.network_alpha,
                         .conv_dim = config.conv_dim,
                         .conv_alpha = config.conv_alpha,
                         .seed = static_cast<uint64_t>(config.seed),
                         .block_dims = config.block_dims,
                         .block_alphas = config.block_alphas,
                         .conv_block_dims = config.conv_block_dims,
                         .conv_block_alphas = config.conv_block_alphas,
                         .block_lr_weight = config.block_lr_weight,
                         .include_patterns = words(config.include_patterns),
                         .exclude_patterns = words(config.exclude_patterns)};
  const auto set_rate = [&](LoraPart part, double rate) {
    options.part_lr[static_cast<size_t>(part)] = rate / config.learning_rate;
  };
  const std::vector<double>& text = config.text_encoder_lr;
  if (config.unet_lr) set_rate(LoraPart::unet, *config.unet_lr);
  set_rate(LoraPart::clip_l, text.empty() ? 0 : text.front());
  set_rate(LoraPart::clip_g, text.empty() ? 0 : text.back());
  if (config.lora_preset != "auto") options.preset = parse_lora_preset(config.lora_preset);
  return options;
}

LossOptions loss_options(const TrainConfig& config) {
  return {.loss_type = config.loss_type,
          .huber_schedule = config.huber_schedule,
          .huber_c = config.huber_c,
          .huber_scale = config.huber_scale,
          .min_snr_gamma = config.min_snr_gamma,
          .debiased_estimation_loss = config.debiased_estimation_loss,
          .scale_v_pred_loss_like_noise_pred = config.scale_v_pred_loss_like_noise_pred,
          .v_pred_like_loss = config.v_pred_like_loss};
}

NoiseOptions noise_options(const TrainConfig& config) {
  return {.noise_offset = config.noise_offset,
          .noise_offset_random_strength = config.noise_offset_random_strength,
          .adaptive_noise_scale = config.adaptive_noise_scale,
          .multires_noise_iterations = config.multires_noise_iterations,
          .multires_noise_discount = config.multires_noise_discount,
          .ip_noise_gamma = config.ip_noise_gamma,
          .ip_noise_gamma_random_strength = config.ip_noise_gamma_random_strength,
          .min_timestep = config.min_timestep,
          .max_timestep = config.max_timestep};
}

flame::DType compute_dtype(std::string_view name, flame::Device device) {
  if (name == "auto") return device.is_cuda() ? flame::DType::bf16 : flame::DType::f32;
  if (name == "no" || name == "f32") return flame::DType::f32;
  if (name == "fp16" || name == "f16") return flame::DType::f16;
  if (name == "bf16") return flame::DType::bf16;
  fail("expected auto, no (f32), fp16 or bf16, got '", name, "'");
}

ModelFiles model_files(const TrainConfig& config) {
  return {config.pretrained_model_name_or_path,
          config.unet,
          config.vae,
          config.clip_l,
          config.clip_g,
          config.v_parameterization,
          config.zero_terminal_snr};
}

size_t buffer_limit(double max_vram) {
  if (max_vram == 0) return 0;
  if (!(max_vram > driver_gib))
    fail("max_vram: expected more than ", driver_gib, " GiB, which the driver and its libraries take, got ", max_vram);
  return static_cast<size_t>((max_vram - driver_gib) * (1 << 30));
}

const char* mixed_precision_name(flame::DType dtype) {
  return dtype == flame::DType::f32 ? "no" : dtype == flame::DType::f16 ? "fp16" : "bf16";
}

const char* type_name(const ConfigKey& key) {
  constexpr const char* names[] = {"TEXT", "INT", "NUMBER", "BOOL", "SIZE", "BOOL", "NUMBER", "INTS", "NUMBERS"};
  return names[key.member.index()];
}

void validate(const TrainConfig& config) {
  std::string complaints;
  const auto check = [&](bool ok, const auto&... parts) {
    if (!ok) complaints += text("\n  ", parts...);
  };
  const auto positive = [&](const char* name, auto value) {
    check(value > 0, name, ": expected above 0, got ", value);
  };
  const auto not_negative = [&](const char* name, double value) {
    check(value >= 0 && std::isfinite(value), name, ": expected 0 or more, got ", value);
  };
  const bool all_parts =
      !config.unet.empty() && !config.vae.empty() && !config.clip_l.empty() && !config.clip_g.empty();
  check(!config.pretrained_model_name_or_path.empty() || all_parts,
        "pretrained_model_name_or_path: missing; give an SDXL checkpoint, for instance --model sdxl.safetensors");
  check(!config.train_data_dir.empty(), "train_data_dir: missing; give the folder with your pictures and captions");
  check(!config.output_name.empty() && config.output_name.find('/') == std::string::npos,
        "output_name: expected a file name without a folder, got '", config.output_name, "'");
  check(!config.output_dir.empty(), "output_dir: missing");
  check(config.max_token_length >= 75 && config.max_token_length <= 7500 && config.max_token_length % 75 == 0,
        "max_token_length: expected a multiple of 75 from 75 to 7500, got ", config.max_token_length);
  for (int64_t side : {config.resolution.width, config.resolution.height}) {
    check(side >= 64 && side % 8 == 0 && side <= 8192, "resolution: expected multiples of 8 from 64 to 8192, got ",
          side);
  }
  positive("learning_rate", config.learning_rate);
  check(std::isfinite(config.learning_rate), "learning_rate: expected a finite number");
  if (config.unet_lr) not_negative("unet_lr", *config.unet_lr);
  check(config.text_encoder_lr.size() <= 2, "text_encoder_lr: expected one number or two, got ",
        config.text_encoder_lr.size());
  for (const double rate : config.text_encoder_lr) not_negative("text_encoder_lr", rate);
  positive("max_train_steps", config.max_train_steps);
  check(config.max_train_steps <= std::numeric_limits<uint32_t>::max(), "max_train_steps: too many");
  positive("train_batch_size", config.train_batch_size);
  positive("gradient_accumulation_steps", config.gradient_accumulation_steps);
  not_negative("lr_warmup_steps", static_cast<double>(config.lr_warmup_steps));
  not_negative("max_grad_norm", config.max_grad_norm);
  not_negative("weight_decay", config.weight_decay);
  not_negative("save_every_n_steps", static_cast<double>(config.save_every_n_steps));
  not_negative("sample_every_n_steps", static_cast<double>(config.sample_every_n_steps));
  const bool draws = config.sample_every_n_steps > 0 || config.sample_at_first;
  check(!draws || !config.sample_prompts.empty(), "sample_prompts: missing; give a text file with one prompt a line");
  check(draws || config.sample_prompts.empty(), "sample_prompts: when? give sample_every_n_steps or sample_at_first");
  for (const ConfigKey& key : keys) {
    if (key.group != metadata_group || !std::holds_alternative<std::string TrainConfig::*>(key.member)) continue;
    const std::string& words = config.*std::get<std::string TrainConfig::*>(key.member);
    constexpr size_t most = 16 << 10;  // of all of them, and all else, a header below 1 MiB
    check(words.size() <= most, key.name, ": expected at most ", most, " bytes, got ", words.size());
    const size_t invalid = invalid_utf8(words);
    check(invalid == words.npos, key.name, ": not UTF-8 at byte ", invalid);
  }
  not_negative("threads", static_cast<double>(config.threads));
  not_negative("seed", static_cast<double>(config.seed));
  const auto parses = [&](const char* name, const auto& parse) {
    try {
      parse();
    } catch (const flame::Error& error) {
      check(false, *name ? text(name, ": ") : "", error.what());
    }
  };
  parses("", [&] { require_valid(lora_options(config)); });
  parses("lr_scheduler", [&] { flame::LearningRateSchedule::parse(config.lr_scheduler); });
  positive("lr_scheduler_num_cycles", config.lr_scheduler_num_cycles);
  check(std::isfinite(config.lr_scheduler_power) && config.lr_scheduler_power > 0,
        "lr_scheduler_power: expected above 0, got ", config.lr_scheduler_power);
  check(config.lr_scheduler != "polynomial" || config.learning_rate > 1e-7,
        "learning_rate: the polynomial schedule ends at 1e-7; expected more, got ", config.learning_rate);
  parses("optimizer", [&] {
    const OptimizerChoice choice = choose_optimizer(config.optimizer_type, config.optimizer_args, config.weight_decay);
    const std::string refusal = refuses_schedule(choice);
    if (config.lr_scheduler != "constant" && !refusal.empty())
      fail("lr_scheduler = ", config.lr_scheduler, ": ", refusal);
  });
  parses("loss", [&] { require_valid(loss_options(config)); });
  parses("noise", [&] { require_valid(noise_options(config)); });
  parses("sample_sampler", [&] { sampler_named(config.sample_sampler); });
  parses("sample_scheduler", [&] { scheduler_named(config.sample_scheduler); });
  parses("max_vram", [&] { buffer_limit(config.max_vram); });
  parses("memory_policy", [&] { parse_memory_policy(config.memory_policy); });
  parses("mixed_precision", [&] { compute_dtype(config.mixed_precision, flame::Device::cpu()); });
  if (!complaints.empty()) fail("the configuration cannot be used:", complaints);
}

}  // namespace eri
