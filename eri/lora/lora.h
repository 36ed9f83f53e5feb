#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "eri/models/clip_text.h"
#include "eri/models/unet.h"
#include "flame/io/safetensors.h"
#include "flame/optim/parameter_pack.h"

namespace eri {

// A layer that can have an adapter, under its name in a LoRA file: sd-scripts' names with LDM block numbers, which
// every program loads ("lora_unet_input_blocks_4_1_proj_in").
struct LoraLayer {
  std::string name;
  std::variant<flame::Linear, flame::Conv2d> layer;
};
using LoraTargets = std::vector<LoraLayer>;

LoraTargets unet_targets(const UNet& unet);       // Linear layers of the transformers: 722 in SDXL
LoraTargets unet_conv_targets(const UNet& unet);  // what conv_dim adds: 66
LoraTargets text_targets(const CLIPTextEncoder& encoder, TextPart part);  // 72 in CLIP-L, 192 in CLIP-G

// Adapters in place, ready to train: `down` random (Kaiming uniform, a = sqrt 5), `up` zero.
class LoraNetwork {
 public:
  struct Options {
    int64_t dim = 16;
    double alpha = 16;
    uint64_t seed = 0;
    bool random_up = false;  // non-zero `up` too, for test files
  };

  LoraNetwork() = default;
  LoraNetwork(const LoraTargets& targets, const Options& options);  // puts an adapter into each target

  // One pack; names are those of the file ("NAME.lora_down.weight"), values in the layout that the layers use.
  const flame::ParameterPack& parameters() const { return parameters_; }

  // Writes the file (F16, 0-d alphas, canonical layout), reads it again and compares. `metadata` is added to
  // what follows from the network itself; hashes are computed here. Throws naming a module that is not finite in F16.
  void save(const std::filesystem::path& file, const flame::Metadata& metadata = {}) const;

 private:
  LoraTargets targets_;
  Options options_;
  flame::ParameterPack parameters_;
};

// A LoRA file.
class LoRA {
 public:
  static LoRA from_safetensors(const std::filesystem::path& file);  // throws naming what is wrong with it
  int rank() const;                                                 // of most modules
  size_t modules() const;
  const flame::Metadata& metadata() const;

  // Adds it to the layers, beside what other LoRAs have put there. Throws, listing them, if keys match no target or
  // shapes do not fit; nothing is dropped silently.
  void apply(const LoraTargets& targets, double strength = 1) const;

 private:
  struct Factors {
    flame::Tensor down, up;  // f32, in the file's layout
    double alpha;
  };
  std::filesystem::path file_;
  std::map<std::string, Factors> modules_;
  flame::Metadata metadata_;
};

}  // namespace eri
