#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "eri/lora/targets.h"
#include "flame/io/safetensors.h"
#include "flame/optim/parameter_pack.h"

namespace eri {

// The modules of a LoRA, in a file or trained: y += alpha / rank * up(down(x)).
class LoRA {
 public:
  struct Module {
    flame::Tensor down,
        up;  // f32, channels last: [rank, in] and [out, rank], or [rank, k, k, in] and [out, 1, 1, rank]
    double alpha = 1;
    int64_t rank() const { return down.dim(0); }
    float scale() const { return static_cast<float>(alpha / static_cast<double>(rank())); }
  };
  using Modules = std::map<std::string, Module>;  // by sd-scripts' name, such as lora_unet_input_blocks_4_1_proj_in

  LoRA() = default;
  explicit LoRA(Modules modules) : modules_(std::move(modules)) {}
  static LoRA from_safetensors(const std::filesystem::path& path);  // throws naming what is wrong
  static LoRA attached(const LoraTargets& targets);                 // the adapters that layers have now

  const Modules& modules() const { return modules_; }
  int64_t rank() const;  // the largest of the linear layers'
  const std::vector<std::string>& warnings() const { return warnings_; }

  // Writes kohya's file (F16, 0-d alphas, canonical layout, metadata with hashes; `about` is added to it), then reads
  // it again and compares. Throws naming a module whose values do not fit into F16.
  void save(const std::filesystem::path& path, const flame::Metadata& about = {}) const;

 private:
  Modules modules_;
  std::vector<std::string> warnings_;
};

// A factor as files have it: convolutions [out, in, k, k].
flame::Tensor in_file_layout(const flame::Tensor& factor);

struct LoraOptions {
  int64_t dim = 16;
  double alpha = 16;
  int64_t conv_dim = 0;  // of convolutions larger than 1x1
  double conv_alpha = 0;
  uint64_t seed = 0;
};

// A LoRA to begin with: `down` random (Kaiming uniform, a = sqrt 5), `up` zero.
LoRA new_lora(const LoraTargets& targets, const LoraOptions& options);

// A LoRA that trains: its factors are the parameters of one pack, and adapters of the layers.
class LoraNetwork {
 public:
  LoraNetwork() = default;
  LoraNetwork(const LoraTargets& targets, const LoRA& start);  // throws if `start` has modules that match no target
  const flame::ParameterPack& pack() const { return pack_; }
  const LoRA& lora() const { return lora_; }  // shares the parameters' memory

 private:
  flame::ParameterPack pack_;
  LoRA lora_;
};

// Puts the sum of several LoRAs, each with its strength, into the layers, in place of what was there. Throws, listing
// them, if modules match no layer.
void apply(std::span<const std::pair<LoRA, double>> loras, const LoraTargets& targets);

}  // namespace eri
