#include <algorithm>
#include <cmath>
#include <numbers>

#include "flame/device/parallel.h"
#include "flame/io/image.h"

// Pillow's two-pass resampling (src/libImaging/Resample.c), with its fixed point: the same pixels come out. Rows come
// first, as in all its versions before 13, which begins with the columns where height shrinks much more than width.
namespace flame {
namespace {

constexpr double lobes = 3;
constexpr int precision_bits = 32 - 8 - 2;  // weights are below 2 in size, pixels have 8 bits
constexpr int32_t half = 1 << (precision_bits - 1);

double sinc(double x) { return x == 0 ? 1 : std::sin(std::numbers::pi * x) / (std::numbers::pi * x); }
double lanczos(double x) { return std::abs(x) < lobes ? sinc(x) * sinc(x / lobes) : 0; }

uint8_t to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> precision_bits, 0, 255)); }

// Which input pixels make output pixel i, and how much each counts.
struct Taps {
  int first, count;
  const int32_t* weights;
};

class Axis {
 public:
  // The weights of outputs [begin, begin + count) of an axis that is resized from `in` to `out` pixels.
  Axis(int in, int out, int begin, int count) : begins_(count), counts_(count) {
    const double scale = static_cast<double>(in) / out;
    const double widening = std::max(scale, 1.0), support = lobes * widening;
    stride_ = 2 * static_cast<size_t>(std::ceil(support)) + 1;
    weights_.resize(stride_ * count);
    std::vector<double> exact(stride_);
    for (int i = 0; i < count; ++i) {
      const double centre = (begin + i + 0.5) * scale;
      begins_[i] = std::max(static_cast<int>(centre - support + 0.5), 0);
      counts_[i] = std::min(static_cast<int>(centre + support + 0.5), in) - begins_[i];
      double sum = 0;
      for (int k = 0; k < counts_[i]; ++k) {
        exact[k] = lanczos((begins_[i] + k - centre + 0.5) / widening);
        sum += exact[k];
      }
      for (int k = 0; k < counts_[i]; ++k) {
        weights_[stride_ * i + k] = static_cast<int32_t>(std::round(exact[k] / sum * (1 << precision_bits)));
      }
    }
  }

  Taps operator[](int i) const { return {begins_[i], counts_[i], weights_.data() + stride_ * i}; }

 private:
  size_t stride_;
  std::vector<int> begins_, counts_;
  std::vector<int32_t> weights_;
};

Image resize_rows(const Image& image, const Axis& axis, int width, int first_row, int rows) {
  Image result(width, rows);
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int y = static_cast<int>(begin); y < end; ++y) {
      const uint8_t* in = image.row(first_row + y);
      uint8_t* out = result.row(y);
      for (int x = 0; x < width; ++x, out += 3) {
        const Taps taps = axis[x];
        const uint8_t* pixel = in + 3 * size_t(taps.first);
        int32_t red = half, green = half, blue = half;
        for (int k = 0; k < taps.count; ++k, pixel += 3) {
          red += pixel[0] * taps.weights[k];
          green += pixel[1] * taps.weights[k];
          blue += pixel[2] * taps.weights[k];
        }
        out[0] = to_byte(red), out[1] = to_byte(green), out[2] = to_byte(blue);
      }
    }
  });
  return result;
}

// `first_row` is the row of the whole picture that `image` begins with.
Image resize_columns(const Image& image, const Axis& axis, int height, int first_row) {
  Image result(image.width(), height);
  const size_t row_bytes = 3 * size_t(image.width());
  parallel_for(height, 16, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> sums(row_bytes);
    for (int y = static_cast<int>(begin); y < end; ++y) {
      const Taps taps = axis[y];
      std::ranges::fill(sums, half);
      for (int k = 0; k < taps.count; ++k) {
        const uint8_t* in = image.row(taps.first - first_row + k);
        for (size_t i = 0; i < row_bytes; ++i) sums[i] += in[i] * taps.weights[k];
      }
      std::ranges::transform(sums, result.row(y), to_byte);
    }
  });
  return result;
}

}  // namespace

Image resize(const Image& image, int width, int height) { return resize(image, width, height, {0, 0, width, height}); }

Image resize(const Image& image, int width, int height, const Rectangle& part) {
  require(image.width() > 0 && image.height() > 0 && width > 0 && height > 0, "resize", "expected sizes above 0, got ",
          image.width(), " x ", image.height(), " to ", width, " x ", height);
  require(part.left >= 0 && part.top >= 0 && part.width > 0 && part.height > 0 && part.left <= width - part.width &&
              part.top <= height - part.height,
          "resize", "expected a part of ", width, " x ", height, ", got ", part.width, " x ", part.height, " at ",
          part.left, ", ", part.top);
  // An axis that keeps its length is only cut, which the other pass then sees as fewer pixels.
  if (width == image.width() && height == image.height()) return crop(image, part);
  const Axis across(image.width(), width, part.left, part.width);
  const Axis down(image.height(), height, part.top, part.height);
  if (height == image.height()) return resize_rows(image, across, part.width, part.top, part.height);
  if (width == image.width()) {
    return resize_columns(crop(image, {part.left, 0, part.width, image.height()}), down, part.height, 0);
  }
  const Taps top = down[0], bottom = down[part.height - 1];
  const int rows = bottom.first + bottom.count - top.first;
  return resize_columns(resize_rows(image, across, part.width, top.first, rows), down, part.height, top.first);
}

}  // namespace flame
