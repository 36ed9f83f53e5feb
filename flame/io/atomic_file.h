#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

namespace flame {

// Replaces a file so that a crash leaves the old or the new one, never a part: a temporary file beside it, fsync,
// rename. Every failure throws an Error with the file's name and the reason, and leaves the old file as it was.
class AtomicFile {
 public:
  AtomicFile(const std::filesystem::path& path, size_t expected_bytes);  // throws where they would not fit on the disk
  ~AtomicFile();                                                         // removes the temporary file
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void commit();

 private:
  [[noreturn]] void fail_write(int error) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  size_t expected_bytes_;
  int file_ = -1;
};

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

}  // namespace flame
