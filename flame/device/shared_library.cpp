#include "flame/device/shared_library.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "flame/core/error.h"

namespace flame {
namespace {

namespace fs = std::filesystem;

// Folders where CUDA's installers and pip put libraries; those of pip by the Python environment in force.
std::vector<fs::path> package_folders() {
  std::vector<fs::path> folders = {fs::read_symlink("/proc/self/exe").parent_path(), "/usr/local/cuda/lib64"};
  std::vector<fs::path> roots;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const char* value = std::getenv(variable)) roots.emplace_back(value);
  }
  std::error_code error;
  for (const fs::path& root : roots) {
    for (const auto& python : fs::directory_iterator(root / "lib", error)) {
      for (const auto& package : fs::directory_iterator(python.path() / "site-packages" / "nvidia", error))
        folders.push_back(package.path() / "lib");
    }
  }
  return folders;
}

}  // namespace

void* SharedLibrary::open() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (handle_ || !error_.empty()) return handle_;
  std::vector<std::string> files;
  if (const char* chosen = std::getenv(variable_)) {
    files = {chosen};
  } else {
    const std::vector<fs::path> folders = package_folders();
    for (const std::string& name : names_) {
      files.push_back(folders.front() / name);
      files.push_back(name);
      for (size_t i = 1; i < folders.size(); ++i) files.push_back(folders[i] / name);
    }
  }
  for (const std::string& file : files) {
    if ((handle_ = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL))) return handle_;
    const char* reason = dlerror();
    if (error_.empty() || fs::exists(file)) error_ = reason ? reason : file;
  }
  return nullptr;
}

bool SharedLibrary::available() { return open() != nullptr; }

void* SharedLibrary::symbol(const char* name) {
  if (!open())
    fail(title_, " cannot be opened: ", error_, "; install it, or set ", variable_, " to the path of ", names_.front());
  void* const found = dlsym(handle_, name);
  if (!found) fail(title_, " (", path(), ") is too old: it has no ", name);
  return found;
}

std::string SharedLibrary::path() {
  link_map* map = nullptr;
  if (!open() || dlinfo(handle_, RTLD_DI_LINKMAP, &map) != 0) return "";
  return map->l_name;
}

}  // namespace flame
