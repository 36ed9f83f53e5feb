#include "flame/ops/pointwise.h"
#include "kinds.h"
#include "models.h"

namespace eri::parity {
namespace {

// What a case's scale is of ours: 1, unless a geometry is no SDXL.
float scale_ratio(const Case& c) { return c.params.at("scale").get<float>() / VAE::scale; }

}  // namespace

Tensors vae_encode(const Case& c) {
  const VAE::Posterior posterior = make_vae(c).posterior(c.input("image"));
  return {{"mean", posterior.mean},
          {"logvar", posterior.logvar},
          {"latent", sample(posterior, c.input("noise")) * scale_ratio(c)}};
}

Tensors vae_decode(const Case& c) { return {{"image", make_vae(c).decode(c.input("latent") / scale_ratio(c))}}; }

}  // namespace eri::parity
