#include <libexif/exif-data.h>

#include <memory>

#include "flame/io/codecs.h"

namespace flame {

int exif_orientation(std::string_view exif) {
  constexpr std::string_view prefix("Exif\0\0", 6);
  const std::string block = exif.starts_with(prefix) ? std::string(exif) : std::string(prefix).append(exif);
  const std::unique_ptr<ExifData, decltype(&exif_data_unref)> data(
      exif_data_new_from_data(reinterpret_cast<const unsigned char*>(block.data()),
                              static_cast<unsigned>(block.size())),
      exif_data_unref);
  const ExifEntry* entry = data ? exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION) : nullptr;
  if (!entry || entry->format != EXIF_FORMAT_SHORT || entry->size < 2) return 1;
  const int orientation = exif_get_short(entry->data, exif_data_get_byte_order(data.get()));
  return orientation >= 1 && orientation <= 8 ? orientation : 1;
}

}  // namespace flame
