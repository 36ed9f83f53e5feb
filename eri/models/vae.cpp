#include "eri/models/vae.h"

#include <cmath>
#include <functional>
#include <iostream>
#include <limits>

#include "eri/models/checkpoint.h"
#include "eri/models/vae_tiling.h"
#include "flame/device/out_of_memory.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {

using namespace flame;

namespace {

using Run = std::function<Tensor(const AutoencoderKL&, const Tensor&)>;
using RunTiled = std::function<Tensor(const AutoencoderKL&, const Tensor&, int64_t tile)>;

// A sum is finite only if all its terms are.
bool is_finite(const Tensor& x) { return std::isfinite(x.to(DType::f32).sum().item()); }

// What fits into memory, as far as it has been tried.
class Portions {
 public:
  // `pixels`: of the picture that an element of x's last two axes stands for.
  Tensor run(const AutoencoderKL& network, const Tensor& x, int64_t pixels, const Run& whole, const RunTiled& tiled) {
    if (x.rank() != 4) return whole(network, x);  // which says what is wrong with it
    const int64_t samples = x.dim(0), picture = x.dim(2) * x.dim(3) * pixels;
    if (samples * picture < too_much_) {
      try {
        return whole(network, x);
      } catch (const OutOfMemory&) {
        too_much_ = samples * picture;
        release_cache(x.device());
      }
    }
    if (samples == 1) return run_tiled(network, x, tiled);
    std::vector<Tensor> parts;
    for (int64_t n = 0; n < samples; ++n) parts.push_back(run(network, x.rows(n, 1), pixels, whole, tiled));
    return concat(parts, 0);
  }

 private:
  Tensor run_tiled(const AutoencoderKL& network, const Tensor& x, const RunTiled& tiled) {
    constexpr int64_t smallest = 256;
    for (;;) {
      try {
        return tiled(network, x, tile_);
      } catch (const OutOfMemory&) {
        if (tile_ == smallest) throw;
        tile_ /= 2;
        release_cache(x.device());
      }
    }
  }

  int64_t too_much_ = std::numeric_limits<int64_t>::max();  // pixels at a time
  int64_t tile_ = 512;
};

}  // namespace

DType vae_dtype(DType dtype, Device device, bool no_half_vae) {
  if (device.is_cpu() || no_half_vae || dtype == DType::f32) return DType::f32;
  return DType::bf16;
}

struct VAE::State {
  std::shared_ptr<const WeightSource> weights;
  DType dtype;
  Device device;
  std::optional<AutoencoderKL> network;
  Portions encoding, decoding;

  void load() {
    const Scope scope(*weights, dtype, device);
    network.emplace(scope);
    scope.require_finite();
    if (network->can_fuse()) network->fuse();
  }

  Tensor run(Portions& portions, const Tensor& x, int64_t pixels, const Run& whole, const RunTiled& tiled) {
    const Tensor y = portions.run(*network, x, pixels, whole, tiled);
    if (dtype == DType::f32 || is_finite(y) || !is_finite(x)) return y;
    std::cerr << "VAE: values in " << dtype << " are not finite; from now on it computes in f32" << std::endl;
    dtype = DType::f32;
    network.reset();  // both would take more memory than there may be
    load();
    return portions.run(*network, x, pixels, whole, tiled);
  }
};

VAE::VAE(std::shared_ptr<const WeightSource> weights, DType dtype, Device device)
    : state_(std::make_shared<State>(State{std::move(weights), dtype, device, {}, {}, {}})) {
  state_->load();
}

VAE VAE::from_safetensors(const std::filesystem::path& path, Device device, DType dtype) {
  return VAE(Checkpoint(path).vae(), dtype, device);
}

const AutoencoderKL& VAE::network() const { return *state_->network; }
DType VAE::dtype() const { return state_->dtype; }

Posterior VAE::posterior(const Tensor& image) const {
  const auto whole = [](const AutoencoderKL& network, const Tensor& x) { return network.moments(x); };
  return posterior_of(state_->run(state_->encoding, image, 1, whole, moments_in_tiles));
}

Tensor VAE::encode(const Tensor& image, const Tensor& noise) const { return sample(posterior(image), noise); }
Tensor VAE::encode(const Tensor& image) const { return posterior(image).mean * scale; }

Tensor VAE::decode(const Tensor& latents) const {
  const auto whole = [](const AutoencoderKL& network, const Tensor& x) { return network.decode(x); };
  const int64_t pixels = size_multiple() * size_multiple();
  return state_->run(state_->decoding, latents, pixels, whole, decode_in_tiles);
}

}  // namespace eri
