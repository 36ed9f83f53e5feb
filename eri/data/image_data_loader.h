#pragma once

#include "eri/data/epoch_order.h"
#include "eri/data/image_dataset.h"

namespace eri {

struct LoaderOptions {
  int64_t width = 1024;
  int64_t height = 1024;
  int64_t batch_size = 1;
  uint64_t seed = 0;
  bool shuffle = true;
  std::string caption_extension = ".txt";
};

struct ImageBatch {
  flame::Tensor pixels;  // [batch, 3, height, width] in [-1, 1]
  std::vector<std::string> captions;
  std::vector<SizeConditioning> sizes;
  std::vector<size_t> indices;  // in dataset().samples()
};

// Batches of a folder of pictures, see scan_folder and BatchOrder.
class ImageDataLoader {
 public:
  explicit ImageDataLoader(const std::filesystem::path& folder, const LoaderOptions& options = {});

  ImageBatch next();
  void seek(uint64_t step) { step_ = step; }  // next() gives batch `step`, which counts from 0
  uint64_t step() const { return step_; }
  std::vector<size_t> batch_indices(uint64_t step) const { return order_.batch(step); }
  const ImageDataset& dataset() const { return dataset_; }

 private:
  ImageDataset dataset_;
  BatchOrder order_;
  uint64_t step_ = 0;
};

}  // namespace eri
