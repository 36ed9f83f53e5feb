#include "eri/lora/lora_inventory.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "eri/lora/names.h"
#include "flame/core/error.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

using flame::DType;
using flame::Shape;
using flame::Tensor;
using flame::text;

// How the names of a scheme's modules begin, and what those of their tensors hold. The weak ones say less than others.
struct Scheme {
  std::string_view begin, holds, name;
  bool weak = false;
};
constexpr std::string_view single_file = "kohya's, with a single file's block numbers",
                           diffusers = "kohya's, with diffusers' block numbers", comfyui = "ComfyUI's generic",
                           peft = "PEFT's, as diffusers saves it", before_peft = "diffusers' before PEFT";
constexpr Scheme schemes[] = {
    {"lora_unet_input_block", "", single_file},
    {"lora_unet_middle_block", "", single_file},
    {"lora_unet_output_block", "", single_file},
    {"lora_unet_down_block", "", diffusers},
    {"lora_unet_mid_block", "", diffusers},
    {"lora_unet_up_block", "", diffusers},
    {"lycoris_", "", "LyCORIS'"},
    {"diffusion_model.", "", comfyui},
    {"text_encoders.", "", comfyui},
    {"base_model.model.", "", "PEFT's own"},
    {"unet.", ".lora_A", peft},
    {"unet.", "", before_peft},
    {"transformer.", ".lora_A", peft},
    {"transformer.", "", before_peft},
    {"text_encoder", ".lora_A", peft},
    {"text_encoder", "", before_peft},
    {"lora_te", "", "kohya's, text encoders only", true},
    {"lora_", "", "kohya's", true},
};

// All that there are: programs that take one kind of names drop the others.
std::string naming_of(const std::vector<std::string>& downs) {
  std::vector<std::string_view> strong, weak;
  for (const std::string& down : downs) {
    const auto* scheme = std::ranges::find_if(schemes, [&](const Scheme& each) {
      return down.starts_with(each.begin) && down.find(each.holds) != down.npos;
    });
    if (scheme == std::end(schemes)) continue;
    auto& found = scheme->weak ? weak : strong;
    if (std::ranges::find(found, scheme->name) == found.end()) found.push_back(scheme->name);
  }
  if (strong.empty() && weak.size() > 1) return "kohya's";
  const auto& named = strong.empty() ? weak : strong;
  std::string result;
  for (const std::string_view name : named) result += text(result.empty() ? "" : " and ", name);
  return result.empty() ? "unknown" : result;
}

// "blocks_7_..." or "blocks.7...." -> 7
std::optional<std::string> number_behind(const std::string& module, std::string_view blocks) {
  const size_t at = module.find(blocks), number = at + blocks.size() + 1;
  if (at == module.npos || number >= module.size()) return std::nullopt;
  const size_t end = std::min(module.find_first_not_of("0123456789", number), module.size());
  return end > number ? std::optional(module.substr(number, end - number)) : std::nullopt;
}

std::string block_of(std::string_view name) {
  if (constexpr std::string_view of_peft = "base_model.model."; name.starts_with(of_peft))
    name.remove_prefix(of_peft.size());
  const std::string module(name);
  constexpr std::pair<std::string_view, const char*> encoders[] = {
      {"lora_te1_", "text encoder CLIP-L"},
      {"text_encoder.", "text encoder CLIP-L"},
      {"text_encoders.clip_l.", "text encoder CLIP-L"},
      {"lora_te2_", "text encoder CLIP-G"},
      {"text_encoder_2.", "text encoder CLIP-G"},
      {"text_encoders.clip_g.", "text encoder CLIP-G"},
      {"lora_te3_", "text encoder T5"},
      {"text_encoder_3.", "text encoder T5"},
      {"text_encoders.t5xxl.", "text encoder T5"},
      {"lora_te", "text encoder"},
  };
  for (const auto& [begin, name] : encoders)
    if (module.starts_with(begin)) return name;
  if (module.find("text_model.encoder.") != module.npos) return "text encoder";
  for (const std::string_view part : {"time_embed", "label_emb", "add_embedding", "conv_in", "conv_out"})
    if (module.find(part) != module.npos) return std::string(part);
  // UNets first, whose blocks have transformer_blocks in them; then transformers.
  for (const std::string_view blocks :
       {"input_blocks", "output_blocks", "down_blocks", "up_blocks", "middle_block", "mid_block", "double_blocks",
        "single_blocks", "joint_blocks", "single_transformer_blocks", "transformer_blocks", "blocks", "layers"}) {
    if (blocks.starts_with("mid")) {
      if (module.find(blocks) != module.npos) return std::string(blocks);
    } else if (const auto number = number_behind(module, blocks)) {
      return text(blocks, ".", *number);
    }
  }
  return "other";
}

// |up down| without the product: the sum of (up' up) * (down down').
double norm_of_product(const Tensor& up, const Tensor& down) {
  const int64_t rank = down.dim(0);
  const Tensor a = down.to(DType::f32).view({rank, down.numel() / rank}),
               b = up.to(DType::f32).view({up.numel() / rank, rank});
  const Tensor product = a.matmul(a.permute({1, 0})) * b.permute({1, 0}).matmul(b);
  double sum = 0;
  for (const float value : product.to_host<float>()) sum += value;
  return std::sqrt(std::max(sum, 0.0));
}

// Of a module whose factors fit each other.
std::optional<int64_t> rank_of(const WeightFiles& file, const LoraModuleTensors& tensors) {
  if (tensors.down.empty() || tensors.up.empty()) return std::nullopt;
  const Shape &down = file.entries().at(tensors.down).shape, &up = file.entries().at(tensors.up).shape;
  if (down.rank() < 2 || up.rank() < 2 || down.numel() == 0 || up[1] != down[0]) return std::nullopt;
  const bool no_number = !tensors.alpha.empty() && (file.entries().at(tensors.alpha).shape.numel() != 1 ||
                                                    !std::isfinite(file.tensor(tensors.alpha).item()));
  if (no_number) return std::nullopt;
  return down[0];
}

}  // namespace

int64_t LoraInventory::modules() const {
  int64_t sum = 0;
  for (const auto& [name, block] : blocks) sum += block.modules;
  return sum;
}

double LoraInventory::effect() const {
  double squares = 0;
  for (const auto& [name, block] : blocks) squares += block.effect * block.effect;
  return std::sqrt(squares);
}

LoraInventory lora_inventory_of(const WeightFiles& file) {
  LoraInventory inventory;
  std::map<std::string, LoraModuleTensors> modules;
  for (const auto& [name, entry] : file.entries()) {
    const auto parts = split_lora_name(name);
    std::string* role = parts ? &modules[parts->module].of(parts->role) : nullptr;
    if (role && role->empty())
      *role = name;
    else
      inventory.others.push_back(name);
  }
  std::map<std::string, double> squares;  // of the blocks' effects
  std::vector<std::string> downs;
  for (const auto& [module, tensors] : modules) {
    const auto rank = rank_of(file, tensors);
    if (!rank) {
      for (const std::string& name : {tensors.down, tensors.up, tensors.alpha})
        if (!name.empty()) inventory.others.push_back(name);
      continue;
    }
    const bool has_alpha = !tensors.alpha.empty();
    const double alpha = has_alpha ? file.tensor(tensors.alpha).item() : static_cast<double>(*rank);
    const double effect =
        norm_of_product(file.tensor(tensors.up), file.tensor(tensors.down)) * alpha / static_cast<double>(*rank);
    const std::string block = block_of(module);
    ++inventory.blocks[block].modules;
    squares[block] += effect * effect;
    ++inventory.ranks[*rank];
    ++inventory.alphas[alpha];
    inventory.without_alpha += !has_alpha;
    downs.push_back(tensors.down);
  }
  inventory.naming = naming_of(downs);
  // The alpha of a module of another kind is known by its other tensors.
  std::ranges::sort(inventory.others);
  const std::set<std::string> others(inventory.others.begin(), inventory.others.end());
  std::erase_if(inventory.others, [&](const std::string& name) {
    const auto parts = split_lora_name(name);
    if (!parts || parts->role != LoraRole::alpha) return false;
    const auto is_beside = [&](const auto& at) {
      return at != others.end() && *at != name && at->starts_with(parts->module + ".");
    };
    const auto first = others.lower_bound(parts->module + ".");
    return is_beside(first) || (first != others.end() && *first == name && is_beside(std::next(first)));
  });
  for (auto& [name, block] : inventory.blocks) block.effect = std::sqrt(squares[name]);
  return inventory;
}

}  // namespace eri
