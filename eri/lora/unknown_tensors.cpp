#include "eri/lora/unknown_tensors.h"

#include <algorithm>
#include <map>

#include "eri/lora/lora.h"
#include "flame/core/error.h"

namespace eri {
namespace {

struct Sign {
  enum class Place { start, inside, end } place;
  std::string_view part;
  bool is_in(std::string_view name) const {
    switch (place) {
      case Place::start:
        return name.starts_with(part);
      case Place::inside:
        return name.find(part) != name.npos;
      case Place::end:
        return name.ends_with(part);
    }
    return false;
  }
};
using enum Sign::Place;

struct Kind {
  Sign sign;
  const char *what, *remedy;
};

constexpr const char *sd1 = "this is a LoRA for Stable Diffusion 1 or 2", *flux = "this is a LoRA for Flux",
                     *sd3 = "this is a LoRA for Stable Diffusion 3",
                     *other = "this is a LoRA for another family of models", *other_base = "take one trained on SDXL";

// Names that no LoRA for SDXL has, whatever it was made with.
constexpr Kind families[] = {
    {{start, "lora_te_"}, sd1, other_base},
    {{start, "lora_unet_input_blocks_1_1_"}, sd1, other_base},
    {{inside, "down_blocks_0_attentions"}, sd1, other_base},
    {{inside, "down_blocks.0.attentions"}, sd1, other_base},
    {{inside, "double_blocks"}, flux, other_base},
    {{inside, "single_transformer_blocks"}, flux, other_base},
    {{inside, "joint_blocks"}, sd3, other_base},
    {{inside, "attn.add_q_proj"}, sd3, other_base},
    {{start, "transformer."}, other, other_base},
    {{start, "lora_transformer_"}, other, other_base},
    {{start, "diffusion_model.layers."}, other, other_base},
    {{start, "diffusion_model.blocks."}, other, other_base},
};

constexpr const char *extract =
                         "merge it into its base model in ComfyUI, and extract a LoRA from that with sd-scripts' "
                         "networks/extract_lora_from_models.py",
                     *take_out = "take them out of the file";
constexpr const char *loha = "LoHa modules, which eri does not read", *lokr = "LoKr modules, which eri does not read",
                     *oft = "OFT modules, which eri does not read", *glora = "GLoRA modules, which eri does not read",
                     *ia3 = "(IA)^3 modules, which eri does not read",
                     *dora = "DoRA's magnitudes, without which its other factors mean something else",
                     *tucker = "convolutions in three factors (Tucker's), which eri does not read",
                     *diff = "whole differences of weights, not in low rank, which eri does not read",
                     *embedding = "a textual inversion (an embedding), which eri does not read",
                     *time = "modules of the time and size embeddings, to which eri gives no LoRA",
                     *first = "modules of the UNet's first convolution, to which eri gives no LoRA",
                     *last = "modules of the UNet's last convolution, to which eri gives no LoRA",
                     *projection = "modules of a text encoder's projection, to which eri gives no LoRA",
                     *no_encoder = "names that do not say which of SDXL's two text encoders they mean";

constexpr Kind kinds[] = {
    {{inside, ".hada_"}, loha, extract},
    {{inside, ".lokr_"}, lokr, extract},
    {{inside, ".oft_"}, oft, extract},
    {{start, "oft_"}, oft, extract},
    {{inside, ".boft_"}, oft, extract},
    {{end, ".a1.weight"}, glora, extract},
    {{end, ".a2.weight"}, glora, extract},
    {{end, ".b1.weight"}, glora, extract},
    {{end, ".b2.weight"}, glora, extract},
    {{end, ".on_input"}, ia3, extract},
    {{end, ".dora_scale"}, dora, extract},
    {{inside, "lora_magnitude_vector"}, dora, extract},
    {{inside, ".lora_mid"}, tucker, extract},
    {{end, ".diff"}, diff, extract},
    {{end, ".diff_b"}, diff, extract},
    {{end, ".w_norm"}, diff, extract},
    {{end, ".b_norm"}, diff, extract},
    {{end, ".set_weight"}, diff, extract},
    {{start, "bundle_emb."}, embedding, take_out},
    {{inside, "time_embed"}, time, take_out},  // and diffusers' time_embedding
    {{inside, "label_emb"}, time, take_out},
    {{inside, "add_embedding"}, time, take_out},
    {{inside, "input_blocks_0_0"}, first, take_out},
    {{inside, "input_blocks.0.0"}, first, take_out},
    {{inside, "conv_in."}, first, take_out},
    {{start, "lora_unet_out_"}, last, take_out},
    {{start, "diffusion_model.out."}, last, take_out},
    {{inside, "conv_out."}, last, take_out},
    {{inside, "text_projection"}, projection, take_out},
    {{start, "base_model.model.text_model."},
     no_encoder,
     "put text_encoder. or text_encoder_2. behind base_model.model."},
};

constexpr Kind unnamed = {{inside, ""},
                          "names of no layer that eri knows",
                          "take them out of the file, or take a LoRA that was trained on this model"};

}  // namespace

std::vector<UnknownTensors> sort_unknown(const std::vector<std::string>& tensors) {
  for (const Kind& family : families) {
    if (std::ranges::any_of(tensors, [&](const std::string& name) { return family.sign.is_in(name); }))
      return {{family.what, family.remedy, tensors}};
  }
  std::map<std::string, UnknownTensors> found;  // by what they are
  for (const std::string& name : tensors) {
    const Kind* kind = std::ranges::find_if(kinds, [&](const Kind& each) { return each.sign.is_in(name); });
    if (kind == std::end(kinds)) kind = &unnamed;
    found.try_emplace(kind->what, UnknownTensors{kind->what, kind->remedy, {}}).first->second.names.push_back(name);
  }
  std::vector<UnknownTensors> result;
  for (auto& [what, of_kind] : found) result.push_back(std::move(of_kind));
  return result;
}

std::string sentences(const std::vector<UnknownTensors>& kinds) {
  std::string result;
  for (const auto& [what, remedy, names] : kinds) {
    const char* verb = what.starts_with("this is") ? "" : "it has ";
    result += flame::text(result.empty() ? "" : "; ", verb, what, " (", listed(names), "): ", remedy);
  }
  return result;
}

}  // namespace eri
