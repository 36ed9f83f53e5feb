#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstring>
#include <limits>

#include "flame/core/error.h"
#include "flame/io/codecs.h"
#include "flame/io/image.h"

namespace flame {
namespace {

// libpng reports errors by longjmp. Calls into it are made inside `guarded`, whose frames own nothing: no destructor is
// jumped over, and the message becomes an exception outside.
struct ErrorText {
  std::array<char, 200> text = {};
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  auto& text = static_cast<ErrorText*>(png_get_error_ptr(png))->text;
  std::strncpy(text.data(), message, text.size() - 1);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

template <class Calls>
bool guarded(png_structp png, const Calls& calls) {
  if (setjmp(png_jmpbuf(png))) return false;
  calls();
  return true;
}

struct Reader {
  explicit Reader(std::string_view bytes) : rest(bytes) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &error, on_error, on_warning);
    info = png ? png_create_info_struct(png) : nullptr;
    require(info, "decode_png", "libpng did not start");
    png_set_read_fn(png, this, [](png_structp png, png_bytep to, size_t count) {
      auto& rest = static_cast<Reader*>(png_get_io_ptr(png))->rest;
      if (count > rest.size()) png_error(png, "the file is cut short");
      std::memcpy(to, rest.data(), count);
      rest.remove_prefix(count);
    });
  }
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  ErrorText error;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string_view rest;
};

// Whatever is stored becomes RGB or RGBA of 8 bits.
void ask_for_rgb8(png_structp png, png_infop info) {
  png_set_expand(png);
  png_set_scale_16(png);  // rounds, where png_set_strip_16 would cut
  png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
}

int orientation_of(png_structp png, png_infop info) {
  png_bytep exif = nullptr;
  png_uint_32 bytes = 0;
  if (!png_get_eXIf_1(png, info, &bytes, &exif) || !exif) return 1;
  return exif_orientation({reinterpret_cast<const char*>(exif), bytes});
}

struct Writer {
  Writer() {
    png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &error, on_error, on_warning);
    info = png ? png_create_info_struct(png) : nullptr;
    require(info, "encode_png", "libpng did not start");
    png_set_write_fn(
        png, this,
        [](png_structp png, png_bytep from, size_t count) {
          if (!static_cast<Writer*>(png_get_io_ptr(png))->append(from, count)) png_error(png, "out of memory");
        },
        nullptr);
  }
  ~Writer() { png_destroy_write_struct(&png, &info); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  bool append(png_bytep from, size_t count) noexcept try {
    bytes.append(reinterpret_cast<const char*>(from), count);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }

  ErrorText error;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string bytes;
};

bool is_ascii(const std::string& value) {
  return std::ranges::all_of(value, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// tEXt, which every program reads, or iTXt where the value is more than ASCII.
std::vector<png_text> chunks_of(const std::map<std::string, std::string>& texts) {
  std::vector<png_text> chunks;
  for (const auto& [key, value] : texts) {
    require(!key.empty() && key.size() <= 79 && is_ascii(key), "encode_png",
            "expected a key of 1 to 79 ASCII letters, got '", key, "'");
    png_text chunk = {};
    chunk.compression = is_ascii(value) ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    chunk.key = const_cast<char*>(key.c_str());
    chunk.text = const_cast<char*>(value.c_str());
    chunks.push_back(chunk);
  }
  return chunks;
}

}  // namespace

Raster decode_png(std::string_view bytes, const std::string& file) {
  Reader reader(bytes);
  const png_structp png = reader.png;
  const png_infop info = reader.info;
  const auto guard = [&](const auto& calls) {
    if (!guarded(png, calls)) fail(file, ": broken PNG: ", reader.error.text.data(), "; replace or remove the file");
  };

  guard([&] { png_read_info(png, info); });
  check_picture_size(png_get_image_width(png, info), png_get_image_height(png, info), file);
  guard([&] { ask_for_rgb8(png, info); });

  Raster raster;
  raster.width = static_cast<int>(png_get_image_width(png, info));
  raster.height = static_cast<int>(png_get_image_height(png, info));
  raster.channels = png_get_channels(png, info);
  const size_t row_bytes = png_get_rowbytes(png, info);
  raster.pixels.resize(row_bytes * raster.height);
  std::vector<png_bytep> rows(raster.height);
  for (int y = 0; y < raster.height; ++y) rows[y] = raster.pixels.data() + row_bytes * y;
  guard([&] {
    png_read_image(png, rows.data());
    png_read_end(png, info);
  });
  raster.orientation = orientation_of(png, info);
  return raster;
}

std::string encode_png(const Image& image, const std::map<std::string, std::string>& texts) {
  require(image.width() > 0 && image.height() > 0, "encode_png", "the picture is empty");
  std::vector<png_text> chunks = chunks_of(texts);
  Writer writer;
  const png_structp png = writer.png;
  const png_infop info = writer.info;
  const bool done = guarded(png, [&] {
    png_set_IHDR(png, info, image.width(), image.height(), 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_text(png, info, chunks.data(), static_cast<int>(chunks.size()));
    png_write_info(png, info);
    for (int y = 0; y < image.height(); ++y) png_write_row(png, image.row(y));
    png_write_end(png, nullptr);
  });
  if (!done) fail("encode_png: ", writer.error.text.data());
  return std::move(writer.bytes);
}

}  // namespace flame
