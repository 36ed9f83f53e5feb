#include "flame/io/image.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "flame/io/atomic_file.h"
#include "flame/io/codecs.h"
#include "flame/io/mapped_file.h"

namespace flame {
namespace {

constexpr uint64_t max_pixels = 178'956'970;  // Pillow's limit, against files that unpack to more than the memory

struct Format {
  const char* name;
  size_t offset;
  std::string_view magic;
  Raster (*decode)(std::string_view bytes, const std::string& file);  // null: known by name only
};

constexpr std::array formats = {
    Format{"PNG", 0, "\x89PNG\r\n\x1A\n", decode_png},
    Format{"JPEG", 0, "\xFF\xD8\xFF", decode_jpeg},
    Format{"WebP", 8, "WEBP", decode_webp},
    Format{"GIF", 0, "GIF8", nullptr},
    Format{"BMP", 0, "BM", nullptr},
    Format{"TIFF", 0, "II*", nullptr},
    Format{"TIFF", 0, "MM", nullptr},
    Format{"AVIF", 4, "ftypavif", nullptr},
    Format{"HEIC", 4, "ftyphei", nullptr},
    Format{"JPEG XL", 4, "JXL ", nullptr},
    Format{"Photoshop", 0, "8BPS", nullptr},
};

const Format* format_of(std::string_view bytes) {
  for (const Format& format : formats) {
    if (bytes.size() > format.offset && bytes.substr(format.offset).starts_with(format.magic)) return &format;
  }
  return nullptr;
}

std::vector<uint8_t> over_white(const std::vector<uint8_t>& rgba) {
  std::vector<uint8_t> rgb(rgba.size() / 4 * 3);
  for (size_t i = 0; i < rgba.size() / 4; ++i) {
    const int alpha = rgba[4 * i + 3];
    for (size_t c = 0; c < 3; ++c) {
      rgb[3 * i + c] = static_cast<uint8_t>((rgba[4 * i + c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
  }
  return rgb;
}

// EXIF: 1 upright, 3 upside down, 6 and 8 a quarter turn; the others are their mirror images.
Image upright(const Image& stored, int orientation) {
  if (orientation == 1) return stored;
  const int w = stored.width(), h = stored.height();
  const bool turned = orientation >= 5;
  Image image(turned ? h : w, turned ? w : h);
  for (int y = 0; y < image.height(); ++y) {
    for (int x = 0; x < image.width(); ++x) {
      const std::array<std::array<int, 2>, 8> sources = {{{x, y},
                                                          {w - 1 - x, y},
                                                          {w - 1 - x, h - 1 - y},
                                                          {x, h - 1 - y},
                                                          {y, x},
                                                          {y, h - 1 - x},
                                                          {w - 1 - y, h - 1 - x},
                                                          {w - 1 - y, x}}};
      const auto [from_x, from_y] = sources[orientation - 1];
      std::memcpy(image.row(y) + 3 * x, stored.row(from_y) + 3 * from_x, 3);
    }
  }
  return image;
}

}  // namespace

Image::Image(int width, int height, uint8_t grey) : width_(width), height_(height) {
  require(width >= 0 && height >= 0, "Image", "expected a size, got ", width, " x ", height);
  rgb_.assign(size_t(width) * height * 3, grey);
}

Image::Image(int width, int height, std::vector<uint8_t> rgb) : width_(width), height_(height), rgb_(std::move(rgb)) {
  require(width >= 0 && height >= 0 && rgb_.size() == size_t(width) * height * 3, "Image", "expected ", width, " x ",
          height, " x 3 bytes, got ", rgb_.size());
}

void Image::save(const std::filesystem::path& path, const std::map<std::string, std::string>& texts) const {
  if (path.extension() != ".png") fail("cannot write ", path.string(), ": pictures are saved as PNG, name it .png");
  write_file_atomically(path, encode_png(*this, texts));
}

void check_picture_size(uint64_t width, uint64_t height, const std::string& file) {
  if (width * height > max_pixels) {
    fail(file, ": the picture has ", width, " x ", height, " pixels, at most ", max_pixels,
         " are read: make it smaller");
  }
}

std::string image_format(std::string_view bytes) {
  const Format* format = format_of(bytes);
  return format && format->decode ? format->name : "";
}

Image decode_image(const std::filesystem::path& path) {
  const MappedFile file(path);
  return decode_image(file.view(), path.string());
}

Image decode_image(std::string_view bytes, const std::string& file) {
  if (bytes.empty()) fail(file, ": the file is empty; replace or remove it");
  const Format* format = format_of(bytes);
  if (!format) fail(file, ": not a picture: expected a JPEG, PNG or WebP file; replace or remove it");
  if (!format->decode) fail(file, ": ", format->name, " is not read: convert the picture to PNG, JPEG or WebP");
  Raster raster = format->decode(bytes, file);
  std::vector<uint8_t> rgb = raster.channels == 4 ? over_white(raster.pixels) : std::move(raster.pixels);
  return upright(Image(raster.width, raster.height, std::move(rgb)), raster.orientation);
}

Image crop(const Image& image, const Rectangle& part) {
  require(part.left >= 0 && part.top >= 0 && part.width >= 0 && part.height >= 0 &&
              part.left <= image.width() - part.width && part.top <= image.height() - part.height,
          "crop", "expected a part of ", image.width(), " x ", image.height(), ", got ", part.width, " x ", part.height,
          " at ", part.left, ", ", part.top);
  Image result(part.width, part.height);
  for (int y = 0; y < part.height; ++y) {
    std::copy_n(image.row(part.top + y) + 3 * part.left, 3 * size_t(part.width), result.row(y));
  }
  return result;
}

Image contact_sheet(const std::vector<std::vector<Image>>& rows, int margin) {
  int cell_width = 0, cell_height = 0, columns = 0;
  for (const auto& row : rows) {
    columns = std::max(columns, static_cast<int>(row.size()));
    for (const Image& image : row) {
      cell_width = std::max(cell_width, image.width());
      cell_height = std::max(cell_height, image.height());
    }
  }
  constexpr uint8_t white = 255;
  Image sheet(margin + columns * (cell_width + margin), margin + static_cast<int>(rows.size()) * (cell_height + margin),
              white);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = 0; j < rows[i].size(); ++j) {
      const Image& image = rows[i][j];
      const size_t left = margin + j * (cell_width + margin), top = margin + i * (cell_height + margin);
      for (int y = 0; y < image.height(); ++y) {
        std::copy_n(image.row(y), 3 * size_t(image.width()), sheet.row(static_cast<int>(top) + y) + 3 * left);
      }
    }
  }
  return sheet;
}

}  // namespace flame
