#pragma once

#include <cstddef>
#include <filesystem>
#include <stop_token>
#include <string_view>

#include "flame/device/device.h"

namespace flame {

// A regular file mapped into memory, read only. Opening throws an Error that names the file and the reason.
class MappedFile : public ByteSource {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile() override;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  std::string_view view() const { return {reinterpret_cast<const char*>(data_), bytes_}; }
  void read(std::byte* to, const std::byte* from, size_t bytes) const override;
  // Gives the memory of mapped bytes back to the system; they are read again where they are needed again.
  void release(const std::byte* from, size_t bytes) const;
  // Has the system read the file from its disk into its cache, from begin to end: returns once the last read has begun.
  void read_ahead(std::stop_token stop) const;

 private:
  std::filesystem::path path_;
  int file_ = -1;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace flame
