#include "eri/lora/lora_options.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>

#include "eri/lora/patterns.h"
#include "flame/core/error.h"

namespace eri {
namespace {

using flame::fail;

// kohya's numbers of a UNet's blocks. There are as many input blocks as output blocks.
class UNetBlocks {
 public:
  explicit UNetBlocks(const LoraSites& sites) {
    for (const LoraSite& site : sites) {
      for (const char* blocks : {kInput, kOutput})
        outer_ = std::max(outer_, number(site.name, blocks).value_or(-1) + 1);
    }
  }
  int64_t count() const { return 2 * outer_ + 5; }
  int64_t of(const std::string& module) const {
    if (const auto i = number(module, kInput)) return 1 + *i;
    if (const auto i = number(module, "lora_unet_middle_block_")) return 1 + outer_ + *i;
    if (const auto i = number(module, kOutput)) return 4 + outer_ + *i;
    return module.starts_with("lora_unet_out_") ? count() - 1 : 0;
  }

 private:
  static constexpr const char *kInput = "lora_unet_input_blocks_", *kOutput = "lora_unet_output_blocks_";
  static std::optional<int64_t> number(const std::string& module, std::string_view begin) {
    if (!module.starts_with(begin)) return std::nullopt;
    return std::stoll(module.substr(begin.size()));
  }

  int64_t outer_ = 0;
};

// What each layer has of the numbers that the options give.
class Shares {
 public:
  Shares(const LoraSites& sites, const LoraOptions& options) : options_(options), blocks_(sites) {
    require_one_each("block_dims", options.block_dims);
    require_one_each("block_alphas", options.block_alphas);
    require_one_each("conv_block_dims", options.conv_block_dims);
    require_one_each("conv_block_alphas", options.conv_block_alphas);
    require_one_each("block_lr_weight", options.block_lr_weight);
  }

  LoraShare of(const LoraSite& site) const {
    const double lr = options_.part_lr[static_cast<size_t>(site.part)] * of_block(site, options_.block_lr_weight, 1.0);
    if (site.kernel > 1)
      return {of_block(site, options_.conv_block_dims, options_.conv_dim),
              of_block(site, options_.conv_block_alphas, options_.conv_alpha), lr};
    return {of_block(site, options_.block_dims, options_.dim), of_block(site, options_.block_alphas, options_.alpha),
            lr};
  }
  // Of the ranks that blocks have, one has to be of a block that has such layers.
  void require_layers(const char* option, const std::vector<int64_t>& ranks, bool convolutions,
                      const LoraSites& layers) const {
    const auto gets_one = [&](const LoraSite& site) {
      return site.part == LoraPart::unet && (site.kernel > 1) == convolutions && of_block(site, ranks, int64_t{0}) > 0;
    };
    const bool has_rank = std::any_of(ranks.begin(), ranks.end(), [](int64_t rank) { return rank > 0; });
    if (has_rank && std::none_of(layers.begin(), layers.end(), gets_one))
      fail(option, ": all blocks that it gives a rank are without ",
           convolutions ? "convolutions" : "linear layers of the preset", "; give it to one that has some");
  }

 private:
  template <class Number>
  Number of_block(const LoraSite& site, const std::vector<Number>& each, Number otherwise) const {
    return site.part == LoraPart::unet && !each.empty() ? each[static_cast<size_t>(blocks_.of(site.name))] : otherwise;
  }
  template <class Number>
  void require_one_each(const char* option, const std::vector<Number>& given) const {
    if (!given.empty() && std::ssize(given) != blocks_.count())
      fail(option, ": expected ", blocks_.count(), " numbers, one for each block of the UNet, got ", given.size());
  }

  const LoraOptions& options_;
  UNetBlocks blocks_;
};

LoraPreset preset_of(const LoraOptions& options) {
  const bool convolutions = options.conv_dim > 0 || !options.conv_block_dims.empty();
  const std::vector<int64_t>& blocks = options.conv_block_dims;
  if (!blocks.empty() && std::all_of(blocks.begin(), blocks.end(), [](int64_t rank) { return rank == 0; }))
    fail(
        "conv_block_dims: all are 0; leave them out where convolutions get no LoRA (lora_preset full-lin has the "
        "other layers of ResBlocks), or give one of the blocks a rank");
  const bool has_alpha = options.conv_alpha != LoraOptions().conv_alpha;
  if (!convolutions && (has_alpha || !options.conv_block_alphas.empty()))
    fail(has_alpha ? "conv_alpha" : "conv_block_alphas",
         ": convolutions get no LoRA; leave it out, or give them a rank with conv_dim or conv_block_dims");
  if (!options.preset) return convolutions ? LoraPreset::full : LoraPreset::attn_mlp;
  if (convolutions && !has_convolutions(*options.preset))
    fail(options.conv_dim > 0 ? "conv_dim" : "conv_block_dims", ": the preset ", name_of(*options.preset),
         " has no convolutions; leave one of the two out");
  if (!convolutions && has_convolutions(*options.preset))
    fail("conv_dim: the preset ", name_of(*options.preset), " has convolutions; give the rank of their LoRA");
  return *options.preset;
}

LoraSites filtered(const LoraSites& sites, const std::function<bool(const LoraSite&)>& fits) {
  LoraSites some;
  std::copy_if(sites.begin(), sites.end(), std::back_inserter(some), fits);
  return some;
}

// Why a LoRA has no place there, which could have one.
std::string not_chosen(const LoraSite& site, const LoraOptions& options) {
  if (options.part_lr[static_cast<size_t>(site.part)] > 0) return "no layer of the preset";
  if (site.part == LoraPart::unet) return "of the UNet, which does not train: unet_lr is 0";
  const char* model = site.part == LoraPart::clip_l ? "CLIP-L" : "CLIP-G";
  return flame::text("of ", model, ", a model that does not train: text_encoder_lr gives it no rate");
}

// Throws for a pattern that matches none of the layers that are `chosen` of all sites.
void require_use(const char* option, const LayerPatterns& patterns, const LoraSites& chosen, const LoraSites& sites,
                 const LoraOptions& options) {
  const std::string* pattern = patterns.unused(chosen);
  if (!pattern) return;
  const std::string start = flame::text(option, ": '", *pattern, "' matches none of the ", chosen.size(),
                                        " layers of the preset ", name_of(preset_of(options)), "; ");
  const LayerPatterns alone(option, {*pattern});
  const auto other = std::find_if(sites.begin(), sites.end(), [&](const LoraSite& site) { return alone.match(site); });
  if (other == sites.end()) fail(start, "it has to match a whole name, ", example_for(*pattern, chosen));
  fail(start, other->path, ", which it does match, is ", not_chosen(*other, options));
}

}  // namespace

void require_valid(const LoraOptions& options) {
  const auto rank = [](const char* name, int64_t value, int64_t least) {
    constexpr int64_t most = 4096;
    if (value < least || value > most) fail(name, ": expected ", least, " to ", most, ", got ", value);
  };
  const auto above = [](const char* name, double value) {
    if (!(value > 0) || !std::isfinite(value)) fail(name, ": expected above 0, got ", value);
  };
  const auto not_below = [](const char* name, double value) {
    if (!(value >= 0) || !std::isfinite(value)) fail(name, ": expected 0 or more, got ", value);
  };
  rank("network_dim", options.dim, 1);
  rank("conv_dim", options.conv_dim, 0);
  for (const int64_t each : options.block_dims) rank("block_dims", each, 0);
  for (const int64_t each : options.conv_block_dims) rank("conv_block_dims", each, 0);
  above("network_alpha", options.alpha);
  above("conv_alpha", options.conv_alpha);
  for (const double each : options.block_alphas) not_below("block_alphas", each);
  for (const double each : options.conv_block_alphas) not_below("conv_block_alphas", each);
  for (const double each : options.block_lr_weight) not_below("block_lr_weight", each);
  preset_of(options);
  LayerPatterns("exclude_patterns", options.exclude_patterns);
  LayerPatterns("include_patterns", options.include_patterns);
  if (options.exclude_patterns.empty() && !options.include_patterns.empty())
    fail(
        "include_patterns: they bring back what exclude_patterns leave out, and there are none; with "
        "exclude_patterns .* nothing but them is left");
}

LoraPlan plan_lora(const LoraSites& sites, const LoraOptions& options) {
  require_valid(options);
  const LoraPreset preset = preset_of(options);
  const LoraSites of_preset =
      filtered(sites, [&](const LoraSite& site) { return is_lora_target(site.part, site.path, preset); });
  const LoraSites chosen =
      filtered(of_preset, [&](const LoraSite& site) { return options.part_lr[static_cast<size_t>(site.part)] > 0; });
  const LayerPatterns exclude("exclude_patterns", options.exclude_patterns);
  const LayerPatterns include("include_patterns", options.include_patterns);
  const char* const none_left =
      "no layer of the model is left to get a LoRA; change the preset, patterns, ranks or rates";
  if (chosen.empty()) fail(none_left);
  require_use("exclude_patterns", exclude, chosen, sites, options);
  require_use("include_patterns", include, chosen, sites, options);

  const Shares shares(sites, options);
  shares.require_layers("block_dims", options.block_dims, false, of_preset);
  shares.require_layers("conv_block_dims", options.conv_block_dims, true, of_preset);
  LoraPlan plan;
  for (const LoraSite& site : chosen) {
    const LoraShare share = shares.of(site);
    if (share.rank > 0 && share.lr > 0) plan[site.name] = share;
  }
  const auto learns = [&](const LoraSite& site) { return plan.contains(site.name); };
  const LoraSites excluded = filtered(chosen, [&](const LoraSite& site) { return exclude.match(site); });
  const char* const nothing_back = "' brings no layer back: ";
  if (const std::string* pattern = include.unused(excluded))
    fail("include_patterns: '", *pattern, nothing_back, "exclude_patterns leave out none of those that it matches");
  if (const std::string* pattern = include.unused(filtered(excluded, learns)))
    fail("include_patterns: '", *pattern, nothing_back, "in the blocks of all that it could the rank or ",
         "block_lr_weight is 0");
  for (const LoraSite& site : excluded)
    if (!include.match(site)) plan.erase(site.name);
  for (const LoraSite& site : filtered(chosen, learns))
    if (plan[site.name].alpha == 0)
      fail(site.kernel > 1 ? "conv_block_alphas" : "block_alphas",
           ": expected above 0 for a block with a LoRA, such as ", site.name);
  if (plan.empty()) fail(none_left);
  return plan;
}

}  // namespace eri
