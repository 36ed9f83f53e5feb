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
  if (mapped == MAP_FAILED) ::close(file);
  if (error) fail_open(path, error);
  if (S_ISDIR(status.st_mode)) fail("cannot open ", path.string(), ": it is a folder, a file was expected");
  if (!S_ISREG(status.st_mode)) fail("cannot open ", path.string(), ": it is not a regular file");
  if (status.st_size == 0) return;
  if (mapped == MAP_FAILED) fail_open(path, map_error);
  file_ = file;
  data_ = static_cast<std::byte*>(mapped);
  bytes_ = static_cast<size_t>(status.st_size);
}

MappedFile::~MappedFile() {
  if (!data_) return;
  ::munmap(data_, bytes_);
  ::close(file_);
}

void MappedFile::read(std::byte* to, const std::byte* from, size_t bytes) const {
  const auto begin = static_cast<size_t>(from - data_);
  for (size_t done = 0; done < bytes;) {
    const ssize_t count = ::pread(file_, to + done, bytes - done, static_cast<off_t>(begin + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      fail("cannot read ", path_.string(), " at byte ", begin + done, ": ", std::generic_category().message(errno),
           "; check the disk, or copy the file to another one");
    if (count == 0)
      fail(path_.string(), " ends at byte ", begin + done, ", it had ", bytes_,
           " when it was opened: it was cut off since; copy or download it again");
    done += static_cast<size_t>(count);
  }
}

void MappedFile::release(const std::byte* from, size_t bytes) const {
  static const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<size_t>(from - data_);
  const size_t begin = (offset + page - 1) / page * page, end = (offset + bytes) / page * page;
  if (begin < end) ::madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

void MappedFile::read_ahead(std::stop_token stop) const {
  constexpr size_t piece = size_t{32} << 20;
  for (size_t begin = 0; begin < bytes_ && !stop.stop_requested(); begin += piece)
    ::posix_fadvise(file_, static_cast<off_t>(begin), piece, POSIX_FADV_WILLNEED);
}

}  // namespace flame
