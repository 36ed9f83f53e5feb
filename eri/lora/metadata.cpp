#include "eri/lora/metadata.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "eri/lora/sha256.h"

namespace eri {
namespace {

using flame::Metadata;
using Tensors = std::map<std::string, flame::Tensor>;

// sd-scripts' short hashes are of these bytes of a file.
constexpr size_t kLegacyBegin = 0x100000, kLegacyEnd = 0x110000;
constexpr size_t kLegacyDigits = 8;

std::string model_hash(const Tensors& tensors) {
  Sha256 hash;
  for (const auto& [name, tensor] : tensors) hash.add(tensor.raw(), tensor.bytes());
  return hash.hex();
}

// Of a file that has these tensors and only the ss_* metadata.
std::string legacy_hash(const Tensors& tensors, const Metadata& metadata) {
  Metadata training;
  for (const auto& entry : metadata) {
    if (entry.first.starts_with("ss_")) training.insert(entry);
  }
  Sha256 hash;
  size_t at = 0;
  const auto add = [&](const void* data, size_t bytes) {
    const size_t begin = std::clamp(kLegacyBegin, at, at + bytes), end = std::clamp(kLegacyEnd, at, at + bytes);
    hash.add(static_cast<const std::byte*>(data) + (begin - at), end - begin);
    at += bytes;
  };
  const std::string header = flame::safetensors_header(tensors, training);
  add(header.data(), header.size());
  for (const auto& [name, tensor] : tensors) add(tensor.raw(), tensor.bytes());
  return hash.hex().substr(0, kLegacyDigits);
}

// The rank and alpha that a group of modules shares; sd-scripts writes "Dynamic" where they differ.
struct Sizes {
  std::set<int64_t> ranks;
  std::set<double> alphas;

  void add(const LoRA::Module& module) {
    ranks.insert(module.rank());
    alphas.insert(module.alpha);
  }
  std::string rank() const { return ranks.size() == 1 ? std::to_string(*ranks.begin()) : "Dynamic"; }
  std::string alpha() const { return alphas.size() == 1 ? python_text(*alphas.begin()) : "Dynamic"; }
};

bool is_large_convolution(const LoRA::Module& module) { return module.down.rank() == 4 && module.down.dim(1) > 1; }

// sd-scripts' minimum (--no_metadata) and what ModelSpec asks for, of which people write the latter half.
constexpr std::array minimal_keys = {"ss_v2",
                                     "ss_base_model_version",
                                     "ss_network_module",
                                     "ss_network_dim",
                                     "ss_network_alpha",
                                     "ss_network_args",
                                     "modelspec.sai_model_spec",
                                     "modelspec.architecture",
                                     "modelspec.implementation",
                                     "modelspec.title",
                                     "modelspec.author",
                                     "modelspec.description",
                                     "modelspec.license",
                                     "modelspec.tags",
                                     "modelspec.usage_hint",
                                     "modelspec.trigger_phrase"};

bool is_minimal(const std::string& key) {
  return std::find(minimal_keys.begin(), minimal_keys.end(), key) != minimal_keys.end();
}

// ss_NAME_name, ss_NAME_hash and ss_new_NAME_hash.
Metadata file_metadata(const std::filesystem::path& path, const std::string& name) {
  const auto trimmed = path.has_filename() ? path : path.parent_path();  // of "folder/"
  const std::string legacy_key = "ss_" + name + "_hash", key = "ss_new_" + name + "_hash";
  Metadata metadata = {{"ss_" + name + "_name", trimmed.filename().string()}};
  if (std::filesystem::is_directory(path)) {
    metadata[legacy_key] = metadata[key] = "IsADirectory";  // sd-scripts' word
    return metadata;
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) flame::fail("cannot open ", path.string());
  Sha256 all, legacy;
  std::string block(kLegacyEnd - kLegacyBegin, '\0');  // one block is exactly what the short hash is of
  for (size_t at = 0; file; at += block.size()) {
    file.read(block.data(), static_cast<std::streamsize>(block.size()));
    all.add(block.data(), static_cast<size_t>(file.gcount()));
    if (at == kLegacyBegin) legacy.add(block.data(), static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) flame::fail("cannot read ", path.string());
  metadata[legacy_key] = legacy.hex().substr(0, kLegacyDigits);
  metadata[key] = all.hex();
  return metadata;
}

// Names of files need not be UTF-8, JSON must.
std::string valid_utf8(const std::string& text) {
  const nlohmann::json json = text;
  return nlohmann::json::parse(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

Metadata describe_modules(const LoRA& lora) {
  Sizes linear, convolution;
  for (const auto& [name, module] : lora.modules()) (is_large_convolution(module) ? convolution : linear).add(module);
  nlohmann::json arguments = nlohmann::json::object();
  if (!convolution.ranks.empty()) arguments = {{"conv_dim", convolution.rank()}, {"conv_alpha", convolution.alpha()}};
  return {{"ss_network_module", "networks.lora"},
          {"ss_network_dim", linear.rank()},
          {"ss_network_alpha", linear.alpha()},
          {"ss_network_args", arguments.dump()},
          {"ss_base_model_version", "sdxl_base_v1-0"},
          {"ss_v2", "False"},
          {"modelspec.sai_model_spec", "1.0.1"},
          {"modelspec.architecture", "stable-diffusion-xl-v1-base/lora"},
          {"modelspec.implementation", "https://github.com/Stability-AI/generative-models"}};
}

Metadata lora_hashes(const Tensors& tensors, const Metadata& metadata) {
  return {{"sshs_model_hash", model_hash(tensors)}, {"sshs_legacy_hash", legacy_hash(tensors, metadata)}};
}

Metadata lora_metadata(const LoRA& lora, const Tensors& tensors, const std::string& name, const Metadata& about,
                       MetadataDetail detail) {
  const bool minimal = detail == MetadataDetail::minimal;
  Metadata metadata = about;                       // wins
  if (minimal) metadata.erase("ss_network_args");  // which tells of settings
  metadata.merge(describe_modules(lora));
  metadata.merge(Metadata{{"ss_output_name", name}, {"modelspec.title", minimal ? "LoRA" : name}});
  for (auto& [key, value] : metadata) value = valid_utf8(value);
  if (minimal) std::erase_if(metadata, [](const auto& entry) { return !is_minimal(entry.first); });
  for (const auto& [key, hash] : lora_hashes(tensors, metadata)) metadata[key] = hash;
  return metadata;
}

Metadata base_model_metadata(const ModelFiles& files) {
  Metadata metadata = file_metadata(files.model.empty() ? files.unet : files.model, "sd_model");
  if (!files.vae.empty()) metadata.merge(file_metadata(files.vae, "vae"));
  return metadata;
}

std::string python_text(double value) {
  const double magnitude = std::abs(value);
  const bool plain = value == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  char digits[64];
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  std::string text(digits, std::to_chars(digits, digits + sizeof digits, value, format).ptr);
  if (plain && text.find('.') == text.npos) text += ".0";
  return text;
}

}  // namespace eri
