#include "eri/train/sd_scripts_keys.h"

#include <algorithm>

namespace eri {
namespace {

constexpr const char* block_weights =
    "block_lr_weight has those of all blocks; numbers 1 to 9, 10 to 12 and 13 to 21 are down, mid and up";
constexpr const char* attention = "delete it: there is one implementation of attention";
constexpr const char* latents = "delete it: pictures are always encoded once, and kept in memory";

struct Remedy {
  const char *key, *text;
};
constexpr Remedy remedies[] = {
    {"network_module",
     "delete it: eri trains LoRA, as networks.lora does, and lycoris.kohya with algo=lora; conv_dim and lora_preset "
     "choose the layers"},
    {"network_args",
     "its arguments are keys of their own: conv_dim, conv_alpha, block_dims, block_alphas, conv_block_dims, "
     "conv_block_alphas, exclude_patterns, include_patterns; preset is lora_preset, and down_lr_weight, mid_lr_weight "
     "and up_lr_weight are block_lr_weight"},
    {"network_train_unet_only",
     "delete it: without text_encoder_lr the UNet alone is trained; where it is false, give text_encoder_lr"},
    {"network_train_text_encoder_only", "give unet_lr = 0 and text_encoder_lr; where it is false, delete it"},
    {"preset", "it is lora_preset"},
    {"algo", "delete it: there is LoRA alone, which LyCORIS calls lora or locon"},
    {"down_lr_weight", block_weights},
    {"mid_lr_weight", block_weights},
    {"up_lr_weight", block_weights},
    {"no_metadata", "it is minimal_metadata"},
    {"gradient_checkpointing", "it is memory_policy = \"block\"; where it is false, delete it"},
    {"cache_latents", latents},
    {"cache_latents_to_disk", latents},
    {"cache_text_encoder_outputs", "delete it: captions are encoded once where no text encoder is trained"},
    {"xformers", attention},
    {"sdpa", attention},
    {"mem_eff_attn", attention},
    {"max_train_epochs", "count in steps: max_train_steps"},
    {"save_every_n_epochs", "count in steps: save_every_n_steps"},
    {"sample_every_n_epochs", "count in steps: sample_every_n_steps"},
    {"save_model_as", "delete it: files are .safetensors"},
    {"save_precision", "delete it: files are fp16"},
    {"use_8bit_adam", "it is optimizer_type = \"AdamW8bit\""},
    {"use_lion_optimizer", "it is optimizer_type = \"Lion\""},
};

}  // namespace

std::string instead_of_sd_scripts_key(std::string_view name) {
  std::string wanted(name);
  std::replace(wanted.begin(), wanted.end(), '-', '_');
  for (const auto& [key, text] : remedies)
    if (key == wanted) return text;
  return "";
}

}  // namespace eri
