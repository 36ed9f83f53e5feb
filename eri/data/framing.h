#pragma once

#include "eri/data/image_dataset.h"

namespace eri {

// How a picture is made to fill a training picture: resized to `width` x `height`, then cut around its centre.
struct Framing {
  int64_t width, height;
  flame::Rectangle part;
};

// The smallest size of the same proportions that covers the target. Throws for a picture too narrow for any resizing.
Framing cover(int64_t width, int64_t height, int64_t target_width, int64_t target_height);

flame::Image framed(const flame::Image& original, const Framing& framing);
SizeConditioning size_conditioning(const flame::Image& original, const Framing& framing);

}  // namespace eri
