#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace eri {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void add(const void* data, size_t bytes);
  std::string hex();  // of all that was added, 64 lower-case digits; call it once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace eri
