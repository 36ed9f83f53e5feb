#include "eri/models/file_kind.h"

#include <algorithm>
#include <array>

namespace eri {
namespace {

using flame::Shape;
using Entries = WeightFiles::Entries;
using Use = FileKind::Use;

// What a rule asks of the names and shapes.
class Look {
 public:
  explicit Look(const Entries& entries) : entries_(entries) {}

  bool begins(const std::string& prefix) const {
    const auto next = entries_.lower_bound(prefix);
    return next != entries_.end() && next->first.starts_with(prefix);
  }
  bool contains(std::string_view part) const {
    return any([part](const auto& entry) { return entry.first.find(part) != std::string::npos; });
  }
  // The extent of the first tensor whose name ends so; 0 if there is none.
  int64_t extent(std::string_view end, int axis) const {
    for (const auto& [name, entry] : entries_) {
      if (name.ends_with(end) && entry.shape.rank() > axis) return entry.shape[axis];
    }
    return 0;
  }

  // UNets of Stable Diffusion, in either layout.
  bool is_unet() const {
    return contains("input_blocks.0.0.") || begins("down_blocks.") || begins("unet.down_blocks.");
  }
  int64_t unet_inputs() const {
    return std::max(extent("input_blocks.0.0.weight", 1), begins("down_blocks.") ? extent("conv_in.weight", 1) : 0);
  }
  int64_t unet_channels() const {
    return std::max(extent("input_blocks.0.0.weight", 0), begins("down_blocks.") ? extent("conv_in.weight", 0) : 0);
  }
  int64_t unet_context() const { return is_unet() ? extent("transformer_blocks.0.attn2.to_k.weight", 1) : 0; }
  // The width of the texts that a LoRA's cross-attention reads.
  int64_t lora_context() const {
    for (const auto& [name, entry] : entries_) {
      const bool reads_text = name.find("attn2_to_k") != name.npos || name.find("attn2.to_k") != name.npos ||
                              name.find("attn2.processor.to_k") != name.npos;
      const bool is_down = name.find("down.weight") != name.npos || name.find("lora_A") != name.npos;
      if (reads_text && is_down && entry.shape.rank() > 1) return entry.shape[1];
    }
    return 0;
  }
  bool takes_sizes() const { return contains("label_emb.0.0.") || begins("add_embedding."); }

  bool is_vae() const { return contains("decoder.up.") || contains("decoder.up_blocks.") || contains("encoder.down"); }
  int64_t vae_latents() const { return extent("decoder.conv_in.weight", 1); }
  bool is_clip() const {
    return begins("encoder.layers.") || contains("text_model.encoder.layers.") || contains("transformer.resblocks.");
  }
  int64_t clip_width() const { return extent("token_embedding.weight", 1); }
  bool is_lora() const {
    return contains("lora_down.") || contains(".lora_A") || contains("lora.down.") ||
           contains("lora_linear_layer.down.");
  }
  bool has_text_encoders() const {
    return begins("conditioner.embedders.") || begins("text_encoders.") || begins("cond_stage_model.");
  }

 private:
  template <class F>
  bool any(const F& f) const {
    return std::any_of(entries_.begin(), entries_.end(), f);
  }
  const Entries& entries_;
};

constexpr const char* as_part = "give a base model as --model; this one can be named beside it with ";

constexpr const char* kBase = "give an SDXL base model, such as sd_xl_base_1.0.safetensors";

struct Rule {
  const char *id, *what;
  Use use;
  std::string remedy;
  bool (*holds)(const Look&);
};

// The first rule that holds says what it is: adapters before the models that their names remind of, rare families
// before their commoner relatives.
const Rule rules[] = {
    {"lora-flux", "a LoRA for Flux", Use::lora, kBase,
     [](const Look& l) {
       return l.is_lora() && (l.contains("double_blocks") || l.contains("single_transformer_blocks"));
     }},
    {"lora-sd3", "a LoRA for Stable Diffusion 3", Use::lora, kBase,
     [](const Look& l) { return l.is_lora() && (l.contains("joint_blocks") || l.contains("attn.add_q_proj")); }},
    {"lora-sdxl", "a LoRA for SDXL", Use::lora, "give a base model as --model, and this with --lora",
     [](const Look& l) {
       return l.is_lora() && (l.begins("lora_te1_") || l.begins("lora_te2_") || l.contains("text_encoder_2.") ||
                              l.begins("text_encoders.clip_g.") || l.lora_context() == 2048);
     }},
    {"lora-sd1", "a LoRA for Stable Diffusion 1", Use::lora, kBase,
     [](const Look& l) { return l.is_lora() && l.lora_context() == 768; }},
    {"lora-sd2", "a LoRA for Stable Diffusion 2", Use::lora, kBase,
     [](const Look& l) { return l.is_lora() && l.lora_context() == 1024; }},
    {"lora", "a LoRA", Use::lora, "give a base model as --model, and this with --lora",
     [](const Look& l) { return l.is_lora(); }},
    {"lycoris", "a LyCORIS adapter (LoHa, LoKr or OFT)", Use::none, "",
     [](const Look& l) { return l.contains(".hada_w1") || l.contains(".lokr_w") || l.contains(".oft_"); }},
    {"embedding", "a textual inversion (an embedding)", Use::none, "",
     [](const Look& l) {
       return l.begins("emb_params") || l.begins("string_to_param") || (l.begins("clip_g") && !l.contains("."));
     }},
    {"controlnet", "a ControlNet", Use::none, "",
     [](const Look& l) {
       return l.begins("control_model.") || l.contains("controlnet_") || l.contains("lllite_") ||
              l.begins("input_hint_block.") || l.begins("zero_convs.");
     }},
    {"ip-adapter", "an IP-Adapter", Use::none, "",
     [](const Look& l) { return l.begins("ip_adapter.") || l.begins("image_proj."); }},
    {"flux", "a Flux model", Use::none, "",
     [](const Look& l) { return l.contains("double_blocks.") || l.contains("single_transformer_blocks."); }},
    {"sd3", "a Stable Diffusion 3 model", Use::none, "",
     [](const Look& l) { return l.contains("joint_blocks.") || l.contains(".attn.add_q_proj."); }},
    {"inpainting", "a UNet for inpainting (9 channels go in, 4 into a base model's)", Use::none, "",
     [](const Look& l) { return l.unet_inputs() == 9; }},
    {"pix2pix", "a UNet that edits pictures (8 channels go in, 4 into a base model's)", Use::none, "",
     [](const Look& l) { return l.unet_inputs() == 8; }},
    {"sdxl-refiner", "the SDXL refiner", Use::none, "",
     [](const Look& l) {
       return l.begins("conditioner.embedders.0.model.") ||
              (l.takes_sizes() && l.unet_channels() == 384 && l.unet_context() == 1280);
     }},
    {"sd2", "a Stable Diffusion 2 model", Use::none, "",
     [](const Look& l) {
       return l.begins("cond_stage_model.model.") || (l.unet_context() == 1024 && !l.takes_sizes());
     }},
    {"sd1", "a Stable Diffusion 1 model", Use::none, "",
     [](const Look& l) { return l.begins("cond_stage_model.") || (l.unet_context() == 768 && !l.takes_sizes()); }},
    {"edm", "an SDXL model with EDM's parametrisation, which is not supported", Use::none, "",
     [](const Look& l) { return l.begins("edm_"); }},
    {"scaled", "a model whose weights have scales for blocks or rows of them, which is not supported", Use::none,
     "give the same model in F16, BF16 or F8 with one scale for each weight",
     [](const Look& l) { return l.contains(".scale_weight") || l.contains(".weight_scale"); }},
    {"sdxl", "an SDXL model", Use::whole, "",
     [](const Look& l) { return l.is_unet() && l.takes_sizes() && (l.is_vae() || l.has_text_encoders()); }},
    {"sdxl-unet", "an SDXL UNet", Use::unet, as_part + std::string("--unet"),
     [](const Look& l) { return l.is_unet() && l.takes_sizes(); }},
    {"unet", "a UNet of another family than SDXL", Use::none, "", [](const Look& l) { return l.is_unet(); }},
    {"t5", "a T5 text encoder", Use::none, "",
     [](const Look& l) { return l.contains("SelfAttention.relative_attention_bias."); }},
    {"clip-l", "the text encoder CLIP-L", Use::text_encoder, as_part + std::string("--clip_l"),
     [](const Look& l) { return l.is_clip() && !l.is_vae() && l.clip_width() == 768; }},
    {"clip-g", "the text encoder CLIP-G", Use::text_encoder, as_part + std::string("--clip_g"),
     [](const Look& l) { return l.is_clip() && !l.is_vae() && l.clip_width() == 1280; }},
    {"clip", "a text encoder", Use::text_encoder, as_part + std::string("--clip_l or --clip_g"),
     [](const Look& l) { return l.is_clip() && !l.is_vae(); }},
    {"vae-other", "a VAE of another family than SDXL, whose latents have 4 channels", Use::none, "",
     [](const Look& l) { return l.is_vae() && l.vae_latents() > 4; }},
    {"vae", "a VAE", Use::vae, as_part + std::string("--vae"), [](const Look& l) { return l.is_vae(); }},
};

}  // namespace

FileKind kind_of(const Entries& entries) {
  const Look look(entries);
  for (const Rule& rule : rules) {
    if (rule.holds(look)) return {rule.id, rule.what, rule.use, rule.remedy};
  }
  return {"unknown", "something unknown", Use::none, ""};
}

}  // namespace eri
