#include "eri/lora/lora_inventory.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "flame/core/error.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

using flame::DType;
using flame::Tensor;
using flame::text;

// How the names of a module's factors end.
struct Endings {
  std::string_view down, up;
};
constexpr Endings endings[] = {
    {".lora_down.weight", ".lora_up.weight"},
    {".lora_A.weight", ".lora_B.weight"},
    {".lora_A.default.weight", ".lora_B.default.weight"},
    {".lora.down.weight", ".lora.up.weight"},
    {"_lora.down.weight", "_lora.up.weight"},
    {".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"},
};

// How the names of a scheme's UNet modules begin, and what they hold.
struct Scheme {
  std::string_view begin, holds, name;
};
constexpr std::string_view single_file = "kohya's, with a single file's block numbers",
                           diffusers = "kohya's, with diffusers' block numbers";
constexpr Scheme schemes[] = {
    {"lora_unet_input_block", "", single_file},
    {"lora_unet_middle_block", "", single_file},
    {"lora_unet_output_block", "", single_file},
    {"lora_unet_down_block", "", diffusers},
    {"lora_unet_mid_block", "", diffusers},
    {"lora_unet_up_block", "", diffusers},
    {"lycoris_", "", "LyCORIS'"},
    {"diffusion_model.", "", "ComfyUI's generic"},
    {"base_model.model.", "", "PEFT's own"},
    {"unet.", ".lora_A.", "PEFT's, as diffusers saves it"},
    {"unet.", "", "diffusers' before PEFT"},
    {"lora_te", "", "kohya's, text encoders only"},
};

std::string naming_of(const WeightFiles::Entries& entries) {
  for (const auto& [begin, holds, name] : schemes) {
    for (const auto& [tensor, entry] : entries) {
      if (tensor.starts_with(begin) && tensor.find(holds) != tensor.npos) return std::string(name);
    }
  }
  return "unknown";
}

std::string block_of(const std::string& module) {
  for (const std::string_view begin : {"lora_te1_", "text_encoder.", "text_encoders.clip_l."})
    if (module.starts_with(begin)) return "text encoder CLIP-L";
  for (const std::string_view begin : {"lora_te2_", "text_encoder_2.", "text_encoders.clip_g."})
    if (module.starts_with(begin)) return "text encoder CLIP-G";
  for (const std::string_view blocks : {"input_blocks", "output_blocks", "down_blocks", "up_blocks"}) {
    const size_t at = module.find(blocks), number = at + blocks.size() + 1;
    if (at == module.npos || number >= module.size()) continue;
    const size_t end = std::min(module.find_first_not_of("0123456789", number), module.size());
    if (end > number) return text(blocks, ".", module.substr(number, end - number));
  }
  for (const std::string_view block : {"middle_block", "mid_block"})
    if (module.find(block) != module.npos) return std::string(block);
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

struct Factors {
  std::string module, up;
};
std::optional<Factors> factors_of(const std::string& down) {
  for (const Endings& ending : endings) {
    if (!down.ends_with(ending.down)) continue;
    const std::string module = down.substr(0, down.size() - ending.down.size());
    return Factors{module, module + std::string(ending.up)};
  }
  return std::nullopt;
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
  inventory.naming = naming_of(file.entries());
  WeightFiles::Entries rest = file.entries();
  std::map<std::string, double> squares;  // of the blocks' effects
  for (const auto& [name, entry] : file.entries()) {
    const auto factors = factors_of(name);
    if (!factors || !rest.contains(factors->up)) continue;
    const Tensor down = file.tensor(name), up = file.tensor(factors->up);
    const int64_t rank = down.rank() ? down.dim(0) : 0;
    if (rank == 0 || down.numel() == 0 || up.numel() % rank != 0) continue;
    const std::string alpha_name = factors->module + ".alpha";
    const bool has_alpha = rest.contains(alpha_name) && rest.at(alpha_name).shape.numel() == 1;
    const double alpha = has_alpha ? file.tensor(alpha_name).item() : static_cast<double>(rank);
    const double effect = norm_of_product(up, down) * alpha / static_cast<double>(rank);
    const std::string block = block_of(factors->module);
    ++inventory.blocks[block].modules;
    squares[block] += effect * effect;
    ++inventory.ranks[rank];
    ++inventory.alphas[alpha];
    inventory.without_alpha += !has_alpha;
    for (const std::string& used : {name, factors->up, alpha_name}) rest.erase(used);
  }
  for (auto& [name, block] : inventory.blocks) block.effect = std::sqrt(squares[name]);
  for (const auto& [name, entry] : rest) inventory.others.push_back(name);
  return inventory;
}

}  // namespace eri
