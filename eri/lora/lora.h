#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "eri/lora/lora_options.h"
#include "eri/lora/names.h"
#include "flame/io/safetensors.h"
#include "flame/optim/parameter_pack.h"

namespace eri {

// What a LoRA file says of itself: all that is known, or only what programs need.
enum class MetadataDetail { full, minimal };

// Low-rank additions to the layers of a model (Hu et al., arXiv:2106.09685): y += alpha / rank * up(down(x)).
class LoRA {
 public:
  struct Module {
    flame::Tensor down;  // f32, channels last: [rank, in], or of a convolution [rank, k, k, in]
    flame::Tensor up;    // [out, rank], or [out, 1, 1, rank]
    double alpha = 1;
    int64_t rank() const { return down.dim(0); }
    float scale() const { return static_cast<float>(alpha / static_cast<double>(rank())); }
  };
  using Modules = std::map<std::string, Module>;  // by sd-scripts' name, such as lora_unet_input_blocks_4_1_proj_in

  LoRA() = default;
  explicit LoRA(Modules modules) : modules_(std::move(modules)) {}

  // A LoRA for a model with these layers, in any of the namings that ComfyUI, sd-scripts, diffusers and PEFT write; for
  // no particular model, only a file like ours. Throws one sentence for tensors that are no part of such a LoRA, all of
  // them listed, for mixed namings, modules that lack a factor, and values that are not finite.
  static LoRA from_safetensors(const std::filesystem::path& path, const LoraTargets& targets = {});
  static LoRA attached(const LoraTargets& targets);  // the adapters that layers have now

  const Modules& modules() const { return modules_; }
  LoraNaming naming() const { return naming_; }  // of the file that it came from
  std::string ranks() const;                     // of all layers, for people: "16", or "4 to 16"
  const std::vector<std::string>& warnings() const { return warnings_; }  // of loading: for people

  // Writes what from_safetensors reads (F16, 0-d alphas, canonical layout), then reads it back and compares. `about` is
  // added to the file's metadata, whose ss_*, modelspec.* and sshs_* keys are those of sd-scripts. Throws naming the
  // tensor if a value is not finite or too large for F16.
  void save(const std::filesystem::path& path, const flame::Metadata& about = {},
            MetadataDetail detail = MetadataDetail::full) const;

 private:
  Modules modules_;
  LoraNaming naming_ = LoraNaming::kohya;
  std::vector<std::string> warnings_;
};

// The names of a module's tensors in files: its own and one of these.
inline constexpr const char* kLoraDown = ".lora_down.weight";
inline constexpr const char* kLoraUp = ".lora_up.weight";
inline constexpr const char* kLoraAlpha = ".alpha";

// A factor as files have it: of convolutions [rank, in, k, k] and [out, rank, 1, 1].
flame::Tensor in_file_layout(const flame::Tensor& factor);

// A LoRA to begin with, for the targets that a plan, or the options, choose: down uniform in +-1 / sqrt(inputs), which
// is Kaiming's with a = sqrt 5; up zero, so that nothing changes at first.
LoRA new_lora(const LoraTargets& targets, const LoraPlan& plan, uint64_t seed);
LoRA new_lora(const LoraTargets& targets, const LoraOptions& options);

// A LoRA that trains: its factors are the parameters of one pack, and adapters of the layers.
class LoraNetwork {
 public:
  LoraNetwork() = default;
  // Throws if `start` has modules that fit no target. Adapters are handed to the layers in `compute`: the layers' own
  // dtype, or f32, which a model needs that is fused afterwards. Modules with the same factor of the learning rate,
  // which is 1 for those that `plan` lacks, are one group of parameters.
  LoraNetwork(const LoraTargets& targets, const LoRA& start, flame::DType compute = flame::DType::f32,
              const LoraPlan& plan = {});

  const flame::ParameterPack& parameters() const { return pack_; }  // named as the tensors of a file
  const LoRA& lora() const { return lora_; }                        // shares the parameters' memory

 private:
  flame::ParameterPack pack_;
  LoRA lora_;
};

// Puts the sum of several LoRAs, each times its strength, into the layers, in place of what was there. Adapters are of
// the layer's dtype, or f32 for those of the targets `fused`, whose model is fused afterwards. Throws, listing them, if
// modules fit no target.
void apply_loras(std::span<const std::pair<LoRA, double>> loras, const LoraTargets& targets,
                 const LoraTargets& fused = {});

std::string listed(const std::vector<std::string>& names);  // for messages: "a, b, c, d, e and 7 more"

}  // namespace eri
