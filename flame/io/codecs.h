#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// What decode_image is made of: one function per format, none of which shows its library.
namespace flame {

// Pixels as the file stores them, 8 bits a channel, before orientation.
struct Raster {
  int width = 0;
  int height = 0;
  int channels = 3;  // RGB, or RGBA with straight alpha
  int orientation = 1;
  std::vector<uint8_t> pixels;
};

Raster decode_png(std::string_view bytes, const std::string& file);
Raster decode_jpeg(std::string_view bytes, const std::string& file);
Raster decode_webp(std::string_view bytes, const std::string& file);

// The EXIF orientation, 1 to 8, of a TIFF block with or without "Exif\0\0" before it; 1 where there is none.
int exif_orientation(std::string_view exif);

// Throws if a picture of this size would not be decoded.
void check_picture_size(uint64_t width, uint64_t height, const std::string& file);

}  // namespace flame
