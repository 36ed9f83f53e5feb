#include "flame/io/atomic_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <iomanip>
#include <system_error>

#include "flame/core/error.h"

namespace flame {
namespace {

namespace fs = std::filesystem;

std::string readable(uintmax_t bytes) {
  constexpr const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double amount = static_cast<double>(bytes);
  int unit = 0;
  for (; amount >= 1024 && unit < 4; ++unit) amount /= 1024;
  std::ostringstream out;
  out << std::fixed << std::setprecision(unit == 0 ? 0 : 1) << amount << ' ' << units[unit];
  return out.str();
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

// Writing through a link replaces what it points to, as a plain write would.
fs::path behind_link(const fs::path& path) {
  std::error_code error;
  if (!fs::is_symlink(path, error)) return path;
  const fs::path target = fs::weakly_canonical(path, error);
  return error ? path : target;
}

uintmax_t free_bytes(const fs::path& folder) {
  struct statvfs status = {};
  // A file system that does not know its size (some network mounts) counts as empty.
  if (::statvfs(folder.c_str(), &status) != 0 || status.f_blocks == 0) return UINTMAX_MAX;
  return uintmax_t{status.f_bavail} * status.f_frsize;
}

fs::path temporary_beside(const fs::path& path) {
  static std::atomic<unsigned> count = 0;
  return folder_of(path) / text(".flame-", ::getpid(), "-", count++, ".tmp");
}

// The rename has happened: a folder that cannot be opened or synced is no reason to report failure.
void sync_folder(const fs::path& folder) {
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;
  ::fsync(file);
  ::close(file);
}

}  // namespace

AtomicFile::AtomicFile(const fs::path& path, size_t expected_bytes)
    : path_(behind_link(path)), temporary_(temporary_beside(path_)), expected_bytes_(expected_bytes) {
  std::error_code ignored;
  if (fs::is_directory(path_, ignored)) fail("cannot write ", path_.string(), ": it is a folder");
  if (free_bytes(folder_of(path_)) < expected_bytes_) fail_write(ENOSPC);
  do {
    file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (file_ < 0 && errno == EEXIST && (temporary_ = temporary_beside(path_), true));
  if (file_ < 0) fail_write(errno);
}

AtomicFile::~AtomicFile() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(file_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_write(errno);
    next += written;
    bytes -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(file_) != 0) fail_write(errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_write(errno);
  ::close(file_);
  file_ = -1;
  sync_folder(folder_of(path_));
}

void AtomicFile::fail_write(int error) const {
  const std::string folder = folder_of(path_).string();
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      fail("cannot write ", path_.string(), ": the disk is full: ", readable(expected_bytes_), " needed, ",
           readable(free_bytes(folder)), " free in ", folder);
    case EACCES:
    case EPERM:
      fail("cannot write ", path_.string(), ": no permission to write in the folder ", folder);
    case ENOENT:
      fail("cannot write ", path_.string(), ": the folder ", folder, " does not exist");
    case ENOTDIR:
      fail("cannot write ", path_.string(), ": ", folder, " is not a folder");
    case EROFS:
      fail("cannot write ", path_.string(), ": the file system is mounted read-only");
    default:
      fail("cannot write ", path_.string(), ": ", std::generic_category().message(error));
  }
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path, bytes.size());
  file.write(bytes.data(), bytes.size());
  file.commit();
}

}  // namespace flame
