#include "eri/data/image_dataset.h"

#include <iomanip>

#include "eri/data/framing.h"
#include "eri/data/hash.h"

namespace eri {

using flame::Tensor;

std::vector<int64_t> ImageDataset::repeats() const {
  std::vector<int64_t> repeats;
  for (const Sample& sample : samples_) repeats.push_back(sample.repeats);
  return repeats;
}

std::string ImageDataset::fingerprint() const {
  uint64_t hash = hash_bytes("");
  for (size_t i = 0; i < size(); ++i) {
    const Sample& sample = samples_[i];
    hash =
        hash_bytes(flame::text(sample.name, '\n', sample.caption, '\n', sample.repeats, '\n', pixel_hashes_[i]), hash);
  }
  return flame::text(std::hex, std::setw(16), std::setfill('0'), hash);
}

flame::Image ImageDataset::image(size_t index) const {
  flame::require(index < size(), "ImageDataset", "expected an index below ", size(), ", got ", index);
  if (!images_.empty()) return images_[index];
  const SizeConditioning& size = samples_[index].size;
  const flame::Image original = flame::decode_image(folder_ / samples_[index].name);
  const Framing framing = cover(original.width(), original.height(), size.target_width, size.target_height);
  return framed(original, framing);
}

Tensor ImageDataset::pixels(size_t index) const { return flame::to_tensor(image(index)); }

Tensor ImageDataset::pixels(std::span<const size_t> indices) const {
  std::vector<flame::Image> images;
  for (size_t index : indices) images.push_back(image(index));
  return flame::to_tensor(images);
}

}  // namespace eri
