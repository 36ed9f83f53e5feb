#include "eri/data/framing.h"

namespace eri {

Framing cover(int64_t width, int64_t height, int64_t target_width, int64_t target_height) {
  constexpr int64_t longest = 1 << 20;
  const bool fit_width = target_width * height >= target_height * width;
  // The other side is rounded to the nearest; it cannot fall below the target, which is a whole number too.
  const int64_t resized_width = fit_width ? target_width : (2 * width * target_height + height) / (2 * height);
  const int64_t resized_height = fit_width ? (2 * height * target_width + width) / (2 * width) : target_height;
  if (resized_width > longest || resized_height > longest) {
    flame::fail("a picture of ", width, " x ", height, " is too narrow to fill ", target_width, " x ", target_height,
                ": crop it");
  }
  return {resized_width,
          resized_height,
          {static_cast<int>((resized_width - target_width) / 2), static_cast<int>((resized_height - target_height) / 2),
           static_cast<int>(target_width), static_cast<int>(target_height)}};
}

flame::Image framed(const flame::Image& original, const Framing& framing) {
  return flame::resize(original, static_cast<int>(framing.width), static_cast<int>(framing.height), framing.part);
}

SizeConditioning size_conditioning(const flame::Image& original, const Framing& framing) {
  return {original.height(), original.width(),    framing.part.top,
          framing.part.left, framing.part.height, framing.part.width};
}

}  // namespace eri
