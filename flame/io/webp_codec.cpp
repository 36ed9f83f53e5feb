#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "flame/core/error.h"
#include "flame/io/codecs.h"

namespace flame {
namespace {

const char* reason(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return "the file is cut short";
    case VP8_STATUS_OUT_OF_MEMORY:
      return "out of memory";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "it uses a feature that libwebp does not know";
    default:
      return "its data is damaged";
  }
}

int orientation_of(std::string_view bytes) {
  const WebPData data = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  const std::unique_ptr<WebPDemuxer, decltype(&WebPDemuxDelete)> demuxer(WebPDemux(&data), WebPDemuxDelete);
  WebPChunkIterator chunk = {};
  if (!demuxer || !WebPDemuxGetChunk(demuxer.get(), "EXIF", 1, &chunk)) return 1;
  const int orientation = exif_orientation({reinterpret_cast<const char*>(chunk.chunk.bytes), chunk.chunk.size});
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

}  // namespace

Raster decode_webp(std::string_view bytes, const std::string& file) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  WebPDecoderConfig config;
  require(WebPInitDecoderConfig(&config), "decode_webp", "libwebp has another version than its headers");
  const VP8StatusCode header = WebPGetFeatures(data, bytes.size(), &config.input);
  if (header != VP8_STATUS_OK) fail(file, ": broken WebP: ", reason(header), "; replace or remove the file");
  if (config.input.has_animation) fail(file, ": an animated WebP: save one of its pictures as PNG");
  check_picture_size(config.input.width, config.input.height, file);

  Raster raster;
  raster.width = config.input.width;
  raster.height = config.input.height;
  raster.channels = config.input.has_alpha ? 4 : 3;
  const int row_bytes = raster.width * raster.channels;
  raster.pixels.resize(size_t(row_bytes) * raster.height);
  config.output.colorspace = config.input.has_alpha ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA = {raster.pixels.data(), row_bytes, raster.pixels.size()};
  const VP8StatusCode status = WebPDecode(data, bytes.size(), &config);
  WebPFreeDecBuffer(&config.output);
  if (status != VP8_STATUS_OK) fail(file, ": broken WebP: ", reason(status), "; replace or remove the file");
  raster.orientation = orientation_of(bytes);
  return raster;
}

}  // namespace flame
