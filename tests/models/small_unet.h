#pragma once

#include "eri/models/geometry.h"

namespace eri {

// A small UNet with SDXL's levels and heads.
inline Geometry small_unet() {
  Geometry geometry;
  geometry.name = "small";
  geometry.unet = {.model_channels = 64,
                   .channel_mult = {1, 2, 4},
                   .transformer_depth = {0, 1, 2},
                   .transformer_depth_middle = 2,
                   .context_dim = 192,
                   .adm_in_channels = 1664};
  return geometry;
}

}  // namespace eri
