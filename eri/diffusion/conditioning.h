#pragma once

#include "flame/core/tensor.h"

namespace eri {

// What a prediction is conditioned on, one row a sample.
struct Conditioning {
  flame::Tensor context;   // [N, tokens, width]
  flame::Tensor pooled;    // [N, width]
  flame::Tensor time_ids;  // [N, 6] f32
};

}  // namespace eri
