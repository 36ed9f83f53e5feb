#pragma once

#include <string>
#include <vector>

namespace flame {

// A library that is opened when it is first needed, so that the program starts where it is missing. Looked for as the
// file that the environment variable `variable` names, then under `names` beside the program, where the system looks,
// and in the folders of CUDA's and pip's packages. Never closed.
class SharedLibrary {
 public:
  SharedLibrary(std::string title, const char* variable, std::vector<std::string> names)
      : title_(std::move(title)), variable_(variable), names_(std::move(names)) {}

  void* symbol(const char* name);  // throws naming the library, what was tried and the remedy
  bool available();                // whether it can be opened
  std::string path();              // the file it was opened from

 private:
  void* open();
  std::string title_;
  const char* variable_;
  std::vector<std::string> names_;
  void* handle_ = nullptr;
  std::string error_;
};

}  // namespace flame
