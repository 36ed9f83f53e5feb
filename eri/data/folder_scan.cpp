#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "eri/data/caption.h"
#include "eri/data/framing.h"
#include "eri/data/hash.h"
#include "flame/device/parallel.h"
#include "flame/io/mapped_file.h"

namespace eri {

namespace fs = std::filesystem;
using flame::Error;
using flame::fail;
using flame::text;

namespace {

// Endings of pictures, and the format that is expected behind them: "" where it is one that we do not read.
const std::map<std::string, std::string> picture_extensions = {
    {".png", "PNG"}, {".jpg", "JPEG"}, {".jpeg", "JPEG"}, {".webp", "WebP"}, {".bmp", ""},  {".gif", ""},
    {".tif", ""},    {".tiff", ""},    {".avif", ""},     {".heic", ""},     {".heif", ""}, {".jxl", ""}};

std::string lower_extension(const fs::path& path) {
  std::string extension = path.extension().string();
  std::ranges::transform(extension, extension.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return extension;
}

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> entries;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (!entry->path().filename().string().starts_with('.')) entries.push_back(entry->path());
  }
  if (error) fail("cannot read the folder ", folder.string(), ": ", error.message());
  std::ranges::sort(entries);
  return entries;
}

// kohya's "10_cat": each picture 10 times an epoch; "cat" is the caption where there are no caption files.
struct RepeatFolder {
  int64_t repeats;
  std::string name;
};
std::optional<RepeatFolder> parse_repeat_folder(const std::string& folder) {
  constexpr int64_t most = 1'000'000;
  const size_t digits = std::min(folder.find_first_not_of("0123456789"), folder.size());
  if (digits == 0 || (digits < folder.size() && folder[digits] != '_')) return {};
  int64_t repeats = 0;
  const auto [end, error] = std::from_chars(folder.data(), folder.data() + digits, repeats);
  if (error != std::errc() || repeats > most) return {};
  return RepeatFolder{repeats, digits < folder.size() ? folder.substr(digits + 1) : ""};
}

std::string first_of(const std::vector<std::string>& names) {
  constexpr size_t shown = 3;
  std::string list;
  for (size_t i = 0; i < std::min(shown, names.size()); ++i) list += (i ? ", " : "") + names[i];
  return names.size() > shown ? list + ", ..." : list;
}

}  // namespace

// One reading of a folder: what is found, and every problem on the way.
class FolderScan {
 public:
  FolderScan(const fs::path& folder, const FolderOptions& options)
      : folder_(folder.has_filename() ? folder : folder.parent_path()), options_(options) {
    if (!options_.caption_extension.starts_with('.')) options_.caption_extension.insert(0, ".");
    dataset_.folder_ = folder_;
  }

  ImageDataset run() {
    check_folder();
    list(folder_, 1, "");
    list_repeat_folders();
    if (dataset_.samples_.empty() && problems_.empty()) {
      fail("no pictures in ", folder_.string(), ": expected .png, .jpg or .webp files with captions beside them",
           subfolders_.empty() ? "" : "; of the folders in it, those named N_name are read");
    }
    check_pictures();
    if (!problems_.empty()) report();
    add_notices();
    return std::move(dataset_);
  }

 private:
  void check_folder() const {
    std::error_code error;
    const fs::file_status status = fs::status(folder_, error);
    if (!fs::exists(status)) fail("the folder ", folder_.string(), " does not exist");
    if (!fs::is_directory(status)) fail(folder_.string(), " is not a folder: expected a folder of pictures");
  }

  std::string name_of(const fs::path& path) const { return path.lexically_relative(folder_).string(); }

  void problem(const std::string& name, const std::string& what) {
    problems_.push_back(what.starts_with(name + ":") ? what : name + ": " + what);
  }

  template <class... Parts>
  void notice(const Parts&... parts) {
    dataset_.notices_.push_back(text(parts...));
  }

  // The pictures and captions of one folder; `class_name` is the caption of pictures that have no caption files at all.
  void list(const fs::path& folder, int64_t repeats, const std::string& class_name) {
    std::vector<fs::path> pictures;
    std::map<std::string, fs::path> captions;  // by stem
    for (const fs::path& path : sorted_entries(folder)) {
      std::error_code ignored;
      if (fs::is_directory(path, ignored)) {
        if (folder != folder_) notice(name_of(path), ": folders within folders are not read");
        if (folder == folder_) subfolders_.push_back(path);
      } else if (picture_extensions.contains(lower_extension(path))) {
        pictures.push_back(path);
      } else if (path.filename().string().ends_with(options_.caption_extension)) {
        const std::string file = path.filename().string();
        captions.emplace(file.substr(0, file.size() - options_.caption_extension.size()), path);
      } else {
        other_files_.push_back(path);
      }
    }
    const bool by_class = captions.empty() && !class_name.empty() && !pictures.empty();
    if (by_class) notice(name_of(folder), ": no caption files, each picture's caption is '", class_name, "'");
    std::map<std::string, fs::path> by_stem;
    for (const fs::path& picture : pictures) {
      const auto [same, added] = by_stem.emplace(picture.stem().string(), picture);
      if (!added) {
        problem(name_of(picture), name_of(same->second) + " has the same stem, so both have one caption: rename one");
      }
      const auto caption = captions.find(picture.stem().string());
      Sample sample{name_of(picture), class_name, repeats, {}};
      if (caption != captions.end()) {
        sample.caption = caption_of(caption->second);
      } else if (!by_class) {
        const fs::path expected = fs::path(sample.name).replace_extension(options_.caption_extension);
        problem(sample.name, "no caption: write one into " + expected.string());
      }
      dataset_.samples_.push_back(std::move(sample));
    }
    for (const auto& [stem, path] : captions) {
      if (!by_stem.contains(stem)) notice(name_of(path), ": a caption without a picture, not used");
    }
  }

  void list_repeat_folders() {
    for (const fs::path& folder : subfolders_) {
      const auto repeat = parse_repeat_folder(folder.filename().string());
      if (!repeat) {
        notice(name_of(folder), ": not read: only folders named N_name are, where N is how often a picture counts");
      } else if (repeat->repeats == 0) {
        notice(name_of(folder), ": not read: its pictures are to be used 0 times");
      } else {
        list_repeat_folder(folder, *repeat);
      }
    }
    std::ranges::sort(dataset_.samples_, {}, &Sample::name);
  }

  void list_repeat_folder(const fs::path& folder, const RepeatFolder& repeat) {
    try {
      list(folder, repeat.repeats, repeat.name);
    } catch (const Error& error) {
      problem(name_of(folder), error.what());
    }
  }

  std::string caption_of(const fs::path& path) {
    try {
      Caption caption = read_caption(path);
      if (caption.text.empty()) notice(name_of(path), ": the caption is empty");
      if (caption.more_lines) notice(name_of(path), ": only the first line is used");
      return std::move(caption.text);
    } catch (const Error& error) {
      problem(name_of(path), error.what());
      return "";
    }
  }

  // Decodes every picture, on all cores: a broken one must not stop a run that has been going for hours.
  void check_pictures() {
    const size_t count = dataset_.size();
    const size_t picture_bytes = static_cast<size_t>(3 * options_.width * options_.height);
    if (count <= options_.keep_bytes / picture_bytes) dataset_.images_.resize(count);
    dataset_.pixel_hashes_.resize(count);
    formats_.resize(count);
    std::vector<std::string> errors(count);
    flame::parallel_for(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        try {
          check_picture(static_cast<size_t>(i));
        } catch (const std::exception& error) {
          errors[i] = error.what();
        }
      }
    });
    for (size_t i = 0; i < count; ++i) {
      if (!errors[i].empty()) problem(dataset_.samples_[i].name, errors[i]);
    }
  }

  void check_picture(size_t i) {
    Sample& sample = dataset_.samples_[i];
    const flame::MappedFile file(folder_ / sample.name);
    formats_[i] = flame::image_format(file.view());
    const flame::Image original = flame::decode_image(file.view(), sample.name);
    const Framing framing = cover(original.width(), original.height(), options_.width, options_.height);
    sample.size = size_conditioning(original, framing);
    flame::Image picture = framed(original, framing);
    dataset_.pixel_hashes_[i] = hash_bytes({reinterpret_cast<const char*>(picture.rgb().data()), picture.rgb().size()});
    if (!dataset_.images_.empty()) dataset_.images_[i] = std::move(picture);
  }

  [[noreturn]] void report() {
    std::ranges::sort(problems_);
    std::string list;
    for (const std::string& problem : problems_) list += "\n  " + problem;
    fail("cannot train on ", folder_.string(), ", ", problems_.size(),
         problems_.size() == 1 ? " problem:" : " problems:", list);
  }

  void add_notices() {
    std::vector<std::string> enlarged;
    for (size_t i = 0; i < dataset_.size(); ++i) {
      const Sample& sample = dataset_.samples_[i];
      const std::string& expected = picture_extensions.at(lower_extension(sample.name));
      if (formats_[i] != expected) notice(sample.name, ": a ", formats_[i], " file under another ending; it is used");
      const auto& size = sample.size;
      if (size.original_width < size.target_width || size.original_height < size.target_height) {
        enlarged.push_back(sample.name);
      }
    }
    if (!enlarged.empty()) {
      notice(enlarged.size(), " of ", dataset_.size(), " pictures are smaller than ", options_.width, " x ",
             options_.height, " and are enlarged: ", first_of(enlarged));
    }
    std::vector<std::string> ignored;
    for (const fs::path& path : other_files_) {
      const std::string format = format_of(path);
      if (format.empty()) {
        ignored.push_back(name_of(path));
      } else {
        notice(name_of(path), ": not used, though it holds a ", format, " picture: give it the right ending");
      }
    }
    if (!ignored.empty()) notice("files not used (", ignored.size(), "): ", first_of(ignored));
  }

  std::string format_of(const fs::path& path) const {
    try {
      return flame::image_format(flame::MappedFile(path).view());
    } catch (const Error&) {
      return "";
    }
  }

  fs::path folder_;
  FolderOptions options_;
  ImageDataset dataset_;
  std::vector<fs::path> subfolders_, other_files_;
  std::vector<std::string> formats_;  // of each sample, by its content
  std::vector<std::string> problems_;
};

ImageDataset scan_folder(const fs::path& folder, const FolderOptions& options) {
  flame::require(options.width > 0 && options.height > 0, "scan_folder", "expected a resolution above 0, got ",
                 options.width, " x ", options.height);
  return FolderScan(folder, options).run();
}

}  // namespace eri
