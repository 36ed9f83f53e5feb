#include "eri/data/image_data_loader.h"

namespace eri {

ImageDataLoader::ImageDataLoader(const std::filesystem::path& folder, const LoaderOptions& options)
    : dataset_(scan_folder(
          folder, {.width = options.width, .height = options.height, .caption_extension = options.caption_extension})),
      order_(dataset_.repeats(), options.batch_size, options.seed, options.shuffle) {}

ImageBatch ImageDataLoader::next() {
  ImageBatch batch;
  batch.indices = order_.batch(step_);
  batch.pixels = dataset_.pixels(batch.indices);
  for (size_t index : batch.indices) {
    batch.captions.push_back(dataset_.samples()[index].caption);
    batch.sizes.push_back(dataset_.samples()[index].size);
  }
  ++step_;
  return batch;
}

}  // namespace eri
