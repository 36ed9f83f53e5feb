#include "flame/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "flame/core/error.h"

namespace flame {
namespace {

[[noreturn]] void fail_open(const std::filesystem::path& path, int error) {
  if (error == ENOENT) fail("cannot open ", path.string(), ": there is no such file");
  if (error == EACCES) fail("cannot open ", path.string(), ": no permission to read it");
  fail("cannot open ", path.string(), ": ", std::generic_category().message(error));
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) fail_open(path, errno);
  struct stat status = {};
  const int error = ::fstat(file, &status) == 0 ? 0 : errno;
  void* mapped = MAP_FAILED;
  if (!error && S_ISREG(status.st_mode) && status.st_size > 0) {
    mapped = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  }
  const int map_error = errno;
  ::close(file);
  if (error) fail_open(path, error);
  if (S_ISDIR(status.st_mode)) fail("cannot open ", path.string(), ": it is a folder, a file was expected");
  if (!S_ISREG(status.st_mode)) fail("cannot open ", path.string(), ": it is not a regular file");
  if (status.st_size == 0) return;
  if (mapped == MAP_FAILED) fail_open(path, map_error);
  data_ = static_cast<std::byte*>(mapped);
  bytes_ = static_cast<size_t>(status.st_size);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(data_, bytes_);
}

}  // namespace flame
