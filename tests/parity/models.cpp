#include "models.h"

#include "eri/models/open_clip.h"
#include "eri/models/synthetic.h"

namespace eri::parity {
namespace {

using flame::Device;
using flame::Scope;

Activation activation(const Geometry::Clip& clip) {
  if (clip.act == "gelu") return Activation::gelu;
  if (clip.act == "quick_gelu") return Activation::quick_gelu;
  flame::fail("unknown activation ", clip.act);
}

}  // namespace

UNet make_unet(const Case& c) {
  const SyntheticCheckpoint weights(c.geometry, c.seed, unet_prefix);
  UNet unet(Scope(weights, c.dtype, c.device), c.geometry.unet.head_dim);
  flame::release_cache(Device::cpu());  // of what was turned at load
  return unet;
}

VAE make_vae(const Case& c) {
  const SyntheticCheckpoint weights(c.geometry, c.seed, vae_prefix);
  return VAE(Scope(weights, c.dtype, c.device));
}

CLIPTextEncoder make_clip_l(const Case& c) {
  const Geometry::Clip& clip = c.geometry.clip_l;
  const SyntheticCheckpoint weights(c.geometry, c.seed, clip_l_prefix);
  return {Scope(weights, c.dtype, c.device), activation(clip), clip.width / clip.heads};
}

CLIPTextEncoder make_clip_g(const Case& c) {
  const Geometry::Clip& clip = c.geometry.clip_g;
  const OpenClipSource weights(std::make_shared<SyntheticCheckpoint>(c.geometry, c.seed, clip_g_prefix));
  return {Scope(weights, c.dtype, c.device), activation(clip), clip.width / clip.heads};
}

LoRA read_lora(const Case& c) { return LoRA::from_safetensors(c.folder / "lora.safetensors"); }

void add_gradients(Tensors& results, const flame::ParameterPack& pack) {
  for (const auto& parameter : pack.parameters())
    results["grad." + parameter.name] = in_file_layout(parameter.gradient);
}

}  // namespace eri::parity
