#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flame/core/tensor.h"

namespace flame {

// A picture: RGB, 8 bits each, rows from the top.
class Image {
 public:
  Image() = default;
  Image(int width, int height, uint8_t grey = 0);
  Image(int width, int height, std::vector<uint8_t> rgb);  // width * height * 3 bytes

  int width() const { return width_; }
  int height() const { return height_; }
  const std::vector<uint8_t>& rgb() const { return rgb_; }
  uint8_t* row(int y) { return rgb_.data() + size_t(y) * width_ * 3; }
  const uint8_t* row(int y) const { return rgb_.data() + size_t(y) * width_ * 3; }
  friend bool operator==(const Image&, const Image&) = default;

  // As PNG, whole or not at all, with text chunks as encode_png() has them.
  void save(const std::filesystem::path& path, const std::map<std::string, std::string>& texts = {}) const;

 private:
  int width_ = 0;
  int height_ = 0;
  std::vector<uint8_t> rgb_;
};

// Reads JPEG, PNG or WebP, told apart by content and not by name. The EXIF orientation is applied, transparency is
// laid over white, colour profiles are ignored. Throws naming the file and what is wrong: no picture, cut short,
// broken, more than 178 million pixels.
Image decode_image(const std::filesystem::path& path);
Image decode_image(std::string_view bytes, const std::string& file);  // `file` is for messages

// "PNG", "JPEG" or "WebP" if the bytes begin like one; "" otherwise.
std::string image_format(std::string_view bytes);

// The bytes of a PNG file with text chunks, such as the prompt a picture was made with; keys of 1 to 79 ASCII letters.
std::string encode_png(const Image& image, const std::map<std::string, std::string>& texts = {});

// Lanczos over 3 lobes, widened to the size of an output pixel when shrinking: Pillow's Image.resize(LANCZOS).
Image resize(const Image& image, int width, int height);

struct Rectangle {
  int left, top, width, height;
};
Image crop(const Image& image, const Rectangle& part);
// crop(resize(image, width, height), part) without computing the rest.
Image resize(const Image& image, int width, int height, const Rectangle& part);

// [N, 3, H, W] f32, black -1, white 1; all pictures of one size. And back, values beyond [-1, 1] clipped.
Tensor to_tensor(std::span<const Image> images);
Tensor to_tensor(const Image& image);
std::vector<Image> from_tensor(const Tensor& pixels);

// Rows of pictures on a white sheet, each in a cell of the largest one's size, `margin` pixels apart.
Image contact_sheet(const std::vector<std::vector<Image>>& rows, int margin = 8);

}  // namespace flame
