#include <cstddef>
#include <cstdint>

#include "tests/fuzz/check_header.h"

// libFuzzer's entry, see CMakeLists.txt.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  is_valid_header({reinterpret_cast<const char*>(data), size});
  return 0;
}
