#include "flame/ops/pointwise.h"
#include "kinds.h"
#include "models.h"

namespace eri::parity {
namespace {

// What a case's scale is of SDXL's, which ours has to be: 1, unless a geometry is no SDXL.
float scale_ratio(const Case& c) { return c.params.at("scale").get<float>() / 0.13025f; }

}  // namespace

Tensors vae_encode(const Case& c) {
  const Posterior posterior = posterior_of(make_vae(c).moments(c.input("image")));
  return {{"mean", posterior.mean},
          {"logvar", posterior.logvar},
          {"latent", sample(posterior, c.input("noise")) * scale_ratio(c)}};
}

Tensors vae_decode(const Case& c) { return {{"image", make_vae(c).decode(c.input("latent") / scale_ratio(c))}}; }

}  // namespace eri::parity
