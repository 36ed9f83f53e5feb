#include "eri/models/vae_tiling.h"

#include <algorithm>
#include <functional>

#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

namespace eri {

using namespace flame;

namespace {

// How input and output are cut up: sides and steps from tile to tile, in their own pixels.
struct Tiling {
  int64_t side, step;
  int64_t out_side, out_step;
  int64_t blended() const { return out_side - out_step; }
};

Tensor cut(const Tensor& x, int axis, int64_t begin, int64_t most) {
  return narrow(x, axis, begin, std::min(most, x.dim(axis) - begin));
}

// b, going over from the end of a, which is before it along the axis.
Tensor blended(const Tensor& a, const Tensor& b, int axis, int64_t most) {
  const int64_t count = std::min({a.dim(axis), b.dim(axis), most});
  const Tensor share = (Tensor::arange(count) / static_cast<float>(count)).to(b.device());
  const Tensor ramp = share.view(Shape{1, 1, 1, 1}.with(axis, count));
  const Tensor mixed = narrow(a, axis, a.dim(axis) - count, count) * (1 - ramp) + narrow(b, axis, 0, count) * ramp;
  if (count == b.dim(axis)) return mixed;
  return concat({mixed, narrow(b, axis, count, b.dim(axis) - count)}, axis);
}

Tensor in_tiles(const Tensor& x, const Tiling& tiling, const std::function<Tensor(const Tensor&)>& run) {
  std::vector<Tensor> rows, above;
  for (int64_t y = 0; y < x.dim(2); y += tiling.step) {
    const Tensor strip = cut(x, 2, y, tiling.side);
    std::vector<Tensor> tiles, kept;
    for (int64_t left = 0; left < x.dim(3); left += tiling.step) {
      Tensor tile = run(cut(strip, 3, left, tiling.side));
      if (!above.empty()) tile = blended(above[tiles.size()], tile, 2, tiling.blended());
      if (!tiles.empty()) tile = blended(tiles.back(), tile, 3, tiling.blended());
      kept.push_back(cut(cut(tile, 2, 0, tiling.out_step), 3, 0, tiling.out_step));
      tiles.push_back(tile);
    }
    rows.push_back(concat(kept, 3));
    above = tiles;
  }
  return concat(rows, 2);
}

void check_tile(const AutoencoderKL& network, int64_t tile) {
  const int64_t multiple = 4 * network.size_multiple();
  require(tile > 0 && tile % multiple == 0, "VAE", "expected tiles in multiples of ", multiple, " pixels, got ", tile);
}

}  // namespace

Tensor moments_in_tiles(const AutoencoderKL& network, const Tensor& image, int64_t tile) {
  check_tile(network, tile);
  const int64_t latent = tile / network.size_multiple();
  return in_tiles(image, {tile, tile / 4 * 3, latent, latent / 4 * 3},
                  [&](const Tensor& x) { return network.moments(x); });
}

Tensor decode_in_tiles(const AutoencoderKL& network, const Tensor& latents, int64_t tile) {
  check_tile(network, tile);
  const int64_t latent = tile / network.size_multiple();
  return in_tiles(latents, {latent, latent / 4 * 3, tile, tile / 4 * 3},
                  [&](const Tensor& x) { return network.decode(x); });
}

}  // namespace eri
