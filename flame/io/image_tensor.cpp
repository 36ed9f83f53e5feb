#include <algorithm>
#include <cmath>

#include "flame/device/parallel.h"
#include "flame/io/image.h"

namespace flame {

Tensor to_tensor(std::span<const Image> images) {
  require(!images.empty(), "to_tensor", "expected at least one picture");
  const int width = images[0].width(), height = images[0].height();
  const Tensor pixels = Tensor::empty({static_cast<int64_t>(images.size()), 3, height, width});
  const int64_t plane = int64_t{height} * width;
  float* out = pixels.data<float>();
  for (const Image& image : images) {
    require(image.width() == width && image.height() == height, "to_tensor", "expected pictures of one size, got ",
            width, " x ", height, " and ", image.width(), " x ", image.height());
    const uint8_t* rgb = image.rgb().data();
    parallel_for(plane, 1 << 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t c = 0; c < 3; ++c) out[c * plane + i] = (rgb[3 * i + c] - 127.5f) / 127.5f;
      }
    });
    out += 3 * plane;
  }
  return pixels;
}

Tensor to_tensor(const Image& image) { return to_tensor(std::span(&image, 1)); }

std::vector<Image> from_tensor(const Tensor& pixels) {
  require(pixels.rank() == 4 && pixels.dim(1) == 3, "from_tensor", "expected [N, 3, H, W], got ", pixels.shape());
  const Tensor host = pixels.to(Device::cpu());
  const int64_t height = host.dim(2), width = host.dim(3), plane = height * width;
  std::vector<Image> images;
  visit(host.dtype(), [&]<class T>() {
    const T* in = host.data<T>();
    for (int64_t n = 0; n < host.dim(0); ++n, in += 3 * plane) {
      std::vector<uint8_t> rgb(static_cast<size_t>(3 * plane));
      for (int64_t i = 0; i < 3 * plane; ++i) {
        const float value = static_cast<float>(in[i % 3 * plane + i / 3]);
        require(!std::isnan(value), "from_tensor", "picture ", n, " holds values that are not numbers (NaN)");
        rgb[i] = static_cast<uint8_t>(std::lround(std::clamp((value + 1) * 127.5f, 0.f, 255.f)));
      }
      images.emplace_back(static_cast<int>(width), static_cast<int>(height), std::move(rgb));
    }
  });
  return images;
}

}  // namespace flame
