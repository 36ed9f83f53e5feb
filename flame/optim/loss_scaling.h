#pragma once

#include <cmath>

#include "flame/core/tensor.h"

namespace flame {

// What losses are multiplied by while their gradients are computed, so that f16 holds these. The rule and the numbers
// are torch.amp.GradScaler's: less after a step whose gradients were not finite, more after many that were.
struct LossScaling {
  float initial = 0x1p16f, growth_factor = 2, backoff_factor = 0.5f;
  int32_t growth_interval = 2000;  // good steps in a row; 0: the scale stays

  FLAME_SCALAR void update(bool good, float& scale, int32_t& good_steps) const {
    if (growth_interval == 0) return;
    if (!good) {
      scale *= backoff_factor;
      good_steps = 0;
    } else if (++good_steps == growth_interval) {
      if (std::isfinite(scale * growth_factor)) scale *= growth_factor;
      good_steps = 0;
    }
  }
};

}  // namespace flame
