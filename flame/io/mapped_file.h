#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

namespace flame {

// A regular file mapped into memory, read only. Opening throws an Error that names the file and the reason.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  std::string_view view() const { return {reinterpret_cast<const char*>(data_), bytes_}; }

 private:
  std::filesystem::path path_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace flame
