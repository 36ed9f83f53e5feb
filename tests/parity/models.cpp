#include "models.h"

#include "eri/models/checkpoint.h"
#include "eri/models/synthetic.h"
#include "eri/models/weight_names.h"
#include "flame/ops/pointwise.h"

namespace eri::parity {
namespace {

using flame::Device;
using flame::Scope;

Activation activation(const Geometry::Clip& clip) {
  if (clip.act == "gelu") return Activation::gelu;
  if (clip.act == "quick_gelu") return Activation::quick_gelu;
  flame::fail("unknown activation ", clip.act);
}

using Weights = std::shared_ptr<const flame::WeightSource>;

// A part of the case's checkpoint: of a file if it has one, else made from the seed.
Weights weights(const Case& c, std::string_view prefix, Weights (Checkpoint::*part)() const) {
  if (!c.checkpoint.empty()) return (Checkpoint(c.checkpoint).*part)();
  return with_our_names(std::make_shared<SyntheticCheckpoint>(c.geometry, c.seed, prefix));
}

// A UNet's weights with what its residual branches add made smaller: the last layer of each times a factor.
class ScaledBranches : public flame::WeightSource {
 public:
  ScaledBranches(Weights weights, float factor) : weights_(std::move(weights)), factor_(factor) {}
  std::string describe() const override { return weights_->describe(); }
  std::vector<std::string> names() const override { return weights_->names(); }
  std::optional<flame::Shape> find(const std::string& name) const override { return weights_->find(name); }
  std::string full_name(const std::string& name) const override { return weights_->full_name(name); }
  Tensor read(const std::string& name) const override {
    const Tensor value = weights_->read(name);
    return ends_a_branch(name) ? value.to(flame::DType::f32) * factor_ : value;
  }

 private:
  static bool ends_a_branch(std::string_view name) {
    const std::string_view layer = name.substr(0, name.rfind('.'));
    for (const std::string_view last : {".out_layers.3", ".to_out.0", ".ff.net.2", ".proj_out"})
      if (layer.ends_with(last)) return true;
    return false;
  }

  Weights weights_;
  float factor_;
};

}  // namespace

UNet make_unet(const Case& c) {
  Weights part = weights(c, unet_prefix, &Checkpoint::unet);
  if (c.params.contains("residual_scale"))
    part = std::make_shared<ScaledBranches>(part, c.params.at("residual_scale").get<float>());
  UNet unet(Scope(*part, c.dtype, c.device), c.geometry.unet.head_dim, c.frequencies);
  flame::release_cache(Device::cpu());  // of what was turned at load
  return unet;
}

AutoencoderKL make_vae(const Case& c) {
  AutoencoderKL network(Scope(*weights(c, vae_prefix, &Checkpoint::vae), c.dtype, c.device));
  if (network.can_fuse()) network.fuse();
  return network;
}

CLIPTextEncoder make_clip_l(const Case& c) {
  const Geometry::Clip& clip = c.geometry.clip_l;
  const Weights part = weights(c, clip_l_prefix, &Checkpoint::clip_l);
  return {Scope(*part, c.dtype, c.device), activation(clip), clip.width / clip.heads};
}

CLIPTextEncoder make_clip_g(const Case& c) {
  const Geometry::Clip& clip = c.geometry.clip_g;
  const Weights part = weights(c, clip_g_prefix, &Checkpoint::clip_g);
  return {Scope(*part, c.dtype, c.device), activation(clip), clip.width / clip.heads};
}

TextEncoders make_text_encoders(const Case& c) {
  return {.tokenizer = {}, .clip_l = make_clip_l(c), .clip_g = make_clip_g(c)};
}

LoRA read_lora(const Case& c, const LoraTargets& targets) {
  return LoRA::from_safetensors(c.folder / "lora.safetensors", targets);
}

void add_gradients(Tensors& results, const flame::ParameterPack& pack) {
  for (const auto& parameter : pack.parameters())
    results["grad." + parameter.name] = in_file_layout(parameter.gradient);
}

}  // namespace eri::parity
