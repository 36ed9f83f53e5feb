#include <algorithm>
#include <array>
#include <csetjmp>

// jpeglib.h uses FILE and does not include it.
// clang-format off
#include <cstdio>
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include "flame/core/error.h"
#include "flame/io/codecs.h"

namespace flame {
namespace {

// libjpeg reports errors by longjmp, see png_codec.cpp: `guarded` frames own nothing.
struct Errors {
  jpeg_error_mgr manager;  // first: libjpeg hands back a pointer to it
  std::jmp_buf jump;
  std::array<char, JMSG_LENGTH_MAX> text = {};
};

[[noreturn]] void on_error(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<Errors*>(jpeg->err);
  errors->manager.format_message(jpeg, errors->text.data());
  std::longjmp(errors->jump, 1);
}

// libjpeg only warns where data is missing or damaged and invents the rest; oddities beside the pixels are harmless.
void on_message(j_common_ptr jpeg, int level) {
  constexpr std::array harmless = {JWRN_EXTRANEOUS_DATA, JWRN_JFIF_MAJOR, JWRN_ADOBE_XFORM, JWRN_TOO_MUCH_DATA,
                                   JWRN_BOGUS_ICC};
  if (level < 0 && std::ranges::find(harmless, jpeg->err->msg_code) == harmless.end()) on_error(jpeg);
}

struct Reader {
  Reader() {
    jpeg.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = on_error;
    errors.manager.emit_message = on_message;
  }
  ~Reader() { jpeg_destroy_decompress(&jpeg); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  template <class Calls>
  bool guarded(const Calls& calls) {
    if (setjmp(errors.jump)) return false;
    calls();
    return true;
  }

  Errors errors = {};
  jpeg_decompress_struct jpeg = {};
};

int orientation_of(const jpeg_decompress_struct& jpeg) {
  constexpr std::string_view exif("Exif\0\0", 6);
  for (auto* marker = jpeg.marker_list; marker; marker = marker->next) {
    const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (marker->marker == JPEG_APP0 + 1 && data.starts_with(exif)) return exif_orientation(data);
  }
  return 1;
}

// Files with four inks come from Adobe programs, which store them inverted: 255 is no ink.
std::vector<uint8_t> rgb_from_inks(const std::vector<uint8_t>& inks) {
  std::vector<uint8_t> rgb(inks.size() / 4 * 3);
  for (size_t i = 0; i < inks.size() / 4; ++i) {
    const int key = inks[4 * i + 3];
    for (size_t c = 0; c < 3; ++c) rgb[3 * i + c] = static_cast<uint8_t>((inks[4 * i + c] * key + 127) / 255);
  }
  return rgb;
}

}  // namespace

Raster decode_jpeg(std::string_view bytes, const std::string& file) {
  Reader reader;
  auto& jpeg = reader.jpeg;
  const auto guard = [&](const auto& calls) {
    if (!reader.guarded(calls))
      fail(file, ": broken JPEG: ", reader.errors.text.data(), "; replace or remove the file");
  };

  guard([&] {
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&jpeg, TRUE);
  });
  check_picture_size(jpeg.image_width, jpeg.image_height, file);
  const bool inks = jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK;
  jpeg.out_color_space = inks ? JCS_CMYK : JCS_RGB;
  guard([&] { jpeg_start_decompress(&jpeg); });

  Raster raster;
  raster.orientation = orientation_of(jpeg);  // finishing frees the markers
  raster.width = static_cast<int>(jpeg.output_width);
  raster.height = static_cast<int>(jpeg.output_height);
  const size_t row_bytes = size_t{jpeg.output_width} * jpeg.output_components;
  raster.pixels.resize(row_bytes * raster.height);
  guard([&] {
    while (jpeg.output_scanline < jpeg.output_height) {
      JSAMPROW row = raster.pixels.data() + row_bytes * jpeg.output_scanline;
      jpeg_read_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_decompress(&jpeg);
  });
  if (inks) raster.pixels = rgb_from_inks(raster.pixels);
  return raster;
}

}  // namespace flame
