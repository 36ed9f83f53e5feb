#include "eri/train/dataset_metadata.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "eri/lora/metadata.h"

namespace eri {
namespace {

using nlohmann::json;

constexpr size_t kTagBytes = 256 << 10;
constexpr size_t kFolders = 100;

std::string trimmed(std::string_view text) {
  constexpr const char* white = " \t\r\n";
  const size_t begin = text.find_first_not_of(white);
  return begin == text.npos ? "" : std::string(text.substr(begin, text.find_last_not_of(white) - begin + 1));
}

// A caption split at commas, in lower case.
std::vector<std::string> tags_of(std::string_view caption) {
  std::vector<std::string> tags;
  while (!caption.empty()) {
    const size_t comma = std::min(caption.find(','), caption.size());
    std::string tag = trimmed(caption.substr(0, comma));
    std::transform(tag.begin(), tag.end(), tag.begin(), [](unsigned char c) { return c < 128 ? std::tolower(c) : c; });
    if (!tag.empty()) tags.push_back(std::move(tag));
    caption.remove_prefix(std::min(comma + 1, caption.size()));
  }
  return tags;
}

struct Folder {
  int64_t repeats = 1, pictures = 0;
  std::map<std::string, int64_t> tags;  // how often each occurs
};
using Folders = std::map<std::string, Folder>;

std::string last_part(const std::filesystem::path& path) {
  const auto folder = path.lexically_normal();
  return (folder.has_filename() ? folder : folder.parent_path()).filename().string();
}

// By name: the data folder itself, and those in it that are named N_name.
Folders folders_of(const ImageDataset& dataset, const std::string& data_dir) {
  const auto collect = [&](bool as_one) {
    Folders folders;
    for (const Sample& sample : dataset.samples()) {
      const std::string inner = std::filesystem::path(sample.name).parent_path().string();
      Folder& folder = folders[as_one || inner.empty() ? last_part(data_dir) : inner];
      if (!as_one) folder.repeats = sample.repeats;
      ++folder.pictures;
      for (std::string& tag : tags_of(sample.caption)) ++folder.tags[std::move(tag)];
    }
    return folders;
  };
  Folders folders = collect(false);
  return folders.size() > kFolders ? collect(true) : folders;
}

json object() { return json::object(); }  // never null, at which other programs' editors fail

// Names of folders need not be UTF-8.
std::string text_of(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

// In a header a JSON text is a string in another one: quotes and backslashes count twice.
size_t bytes_in_header(const std::string& tag, int64_t count) {
  return text_of(text_of(tag)).size() + std::to_string(count).size();
}

json tag_frequency(const Folders& folders) {
  struct Tag {
    const std::string *folder, *name;
    int64_t count;
  };
  json result = object();
  std::vector<Tag> all;
  for (const auto& [name, folder] : folders) {
    result[name] = object();
    for (const auto& [tag, count] : folder.tags) all.push_back({&name, &tag, count});
  }
  std::ranges::stable_sort(all, std::ranges::greater(), &Tag::count);
  size_t bytes = 0;
  for (const auto& [folder, tag, count] : all) {
    bytes += bytes_in_header(*tag, count);
    if (bytes > kTagBytes) break;
    result[*folder][*tag] = count;
  }
  return result;
}

json dataset_dirs(const Folders& folders) {
  json result = object();
  for (const auto& [name, folder] : folders)
    result[name] = {{"n_repeats", folder.repeats}, {"img_count", folder.pictures}};
  return result;
}

// Every picture is cut to one size. The error is of width / height, before and after.
json bucket_info(const ImageDataset& dataset, const Resolution& resolution) {
  const auto& [width, height] = resolution;
  const auto ratio = [](int64_t w, int64_t h) { return static_cast<double>(w) / static_cast<double>(h); };
  int64_t count = 0;
  double error = 0;
  for (const Sample& sample : dataset.samples()) {
    count += sample.repeats;
    error += std::abs(ratio(width, height) - ratio(sample.size.original_width, sample.size.original_height));
  }
  const json bucket = {{"resolution", {width, height}}, {"count", count}};
  return {{"buckets", {{"0", bucket}}}, {"mean_img_ar_error", error / static_cast<double>(dataset.size())}};
}

}  // namespace

flame::Metadata dataset_metadata(const ImageDataset& dataset, const TrainConfig& config) {
  int64_t images = 0;
  for (const Sample& sample : dataset.samples()) images += sample.repeats;
  const Folders folders = folders_of(dataset, config.train_data_dir);
  const auto& [width, height] = config.resolution;
  const int64_t batch = config.train_batch_size, pictures_a_step = batch * config.gradient_accumulation_steps;
  return {
      {"ss_num_train_images", std::to_string(images)},
      {"ss_num_reg_images", "0"},
      {"ss_num_batches_per_epoch", std::to_string((images + batch - 1) / batch)},
      {"ss_num_epochs", std::to_string((config.max_train_steps * pictures_a_step + images - 1) / images)},
      {"ss_batch_size_per_device", std::to_string(batch)},
      {"ss_total_batch_size", std::to_string(pictures_a_step)},
      {"ss_resolution", flame::text("(", width, ", ", height, ")")},
      {"ss_enable_bucket", "False"},
      {"ss_bucket_no_upscale", "False"},
      {"ss_min_bucket_reso", "None"},
      {"ss_max_bucket_reso", "None"},
      {"ss_bucket_info", text_of(bucket_info(dataset, config.resolution))},
      {"ss_resize_interpolation", "lanczos"},
      {"ss_color_aug", "False"},
      {"ss_flip_aug", "False"},
      {"ss_random_crop", "False"},
      {"ss_face_crop_aug_range", "None"},
      {"ss_shuffle_caption", "False"},
      {"ss_keep_tokens", "0"},
      {"ss_caption_dropout_rate", "0.0"},
      {"ss_caption_dropout_every_n_epochs", "0"},
      {"ss_caption_tag_dropout_rate", "0.0"},
      {"ss_dataset_dirs", text_of(dataset_dirs(folders))},
      {"ss_reg_dataset_dirs", text_of(object())},
      {"ss_tag_frequency", text_of(tag_frequency(folders))},
  };
}

}  // namespace eri
