#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "flame/core/tensor.h"
#include "flame/io/image.h"

namespace eri {

// What SDXL is told of a picture's size, in pixels: as it was taken, where the training picture was cut out of the
// resized one, and the training picture's own size.
struct SizeConditioning {
  int64_t original_height, original_width, crop_top, crop_left, target_height, target_width;
};

struct Sample {
  std::string name;  // path within the folder
  std::string caption;
  int64_t repeats = 1;  // times in an epoch
  SizeConditioning size;
};

struct FolderOptions {
  int64_t width = 1024;  // training resolution
  int64_t height = 1024;
  std::string caption_extension = ".txt";
  size_t keep_bytes = size_t{2} << 30;  // pixels are kept in memory if all of them fit into this, else decoded again
};

// A folder of pictures with captions, sorted by name. A picture is resized to cover the training resolution, and cut
// around its centre.
class ImageDataset {
 public:
  size_t size() const { return samples_.size(); }
  const std::vector<Sample>& samples() const { return samples_; }
  const std::vector<std::string>& notices() const { return notices_; }  // what the user may want to know
  std::vector<int64_t> repeats() const;                                 // of each sample
  std::string fingerprint() const;                                      // of names, captions, repeats and pixels

  flame::Tensor pixels(size_t index) const;                     // [1, 3, height, width] in [-1, 1]
  flame::Tensor pixels(std::span<const size_t> indices) const;  // [N, 3, height, width]

 private:
  friend class FolderScan;
  flame::Image image(size_t index) const;

  std::filesystem::path folder_;
  std::vector<Sample> samples_;
  std::vector<uint64_t> pixel_hashes_;
  std::vector<flame::Image> images_;  // empty where they are not kept
  std::vector<std::string> notices_;
};

// Reads pictures (JPEG, PNG, WebP) with a caption file of the same stem each, from the folder itself and, as kohya's
// scripts do, from subfolders named N_name, whose pictures count N times. Decodes every picture; all that is wrong with
// any file is reported in one Error, each with its remedy.
ImageDataset scan_folder(const std::filesystem::path& folder, const FolderOptions& options = {});

}  // namespace eri
