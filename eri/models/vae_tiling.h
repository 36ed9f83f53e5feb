#pragma once

#include "eri/models/autoencoder_kl.h"

// Pictures in overlapping square tiles, which need a fraction of the memory: what diffusers' enable_tiling does, with
// an overlap of a quarter that goes over from one tile to the next in a straight line. Norms see a tile, not all of the
// picture, so colours may differ a little from those of the whole.
namespace eri {

// `tile`: the side of a tile in pixels, a multiple of 32.
Tensor moments_in_tiles(const AutoencoderKL& network, const Tensor& image, int64_t tile);
Tensor decode_in_tiles(const AutoencoderKL& network, const Tensor& latents, int64_t tile);

}  // namespace eri
