#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>

#include "tests/fuzz/check_header.h"

// Changes valid files at random, always the same way, and parses them: for machines without clang's fuzzer.
namespace {

std::string file_of(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + std::string(data_bytes, '\0');
}

const std::array<std::string, 4> valid_files = {
    file_of("{}", 0), file_of(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}   )", 24),
    file_of(
        R"({"__metadata__":{"ss_tag":"{\"a\": 1}","größe":"x"},"n":{"dtype":"F16","shape":[],"data_offsets":[0,2]},)"
        R"("z":{"dtype":"BOOL","shape":[0,7],"data_offsets":[2,2]},"b":{"dtype":"I64","shape":[3],"data_offsets":[2,26]}})",
        26),
    file_of(
        R"({"x":{"shape":[1,1,1,1,1,4],"data_offsets":[8,16],"dtype":"BF16"},"y":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
        16)};

constexpr std::array<const char*, 24> fragments = {"{",
                                                   "}",
                                                   "[",
                                                   "]",
                                                   ",",
                                                   ":",
                                                   "\"",
                                                   "null",
                                                   "-1",
                                                   "1e9",
                                                   "18446744073709551615",
                                                   "4611686018427387904",
                                                   "0",
                                                   "7",
                                                   "2.5",
                                                   "\\u0000",
                                                   "\xff",
                                                   "\"F64\"",
                                                   "\"dtype\":",
                                                   "\"shape\":[",
                                                   "[[[[[",
                                                   "{\"a\":",
                                                   "\"__metadata__\":",
                                                   "true"};

class Mutator {
 public:
  std::string next() {
    std::string file = valid_files[below(valid_files.size())];
    for (size_t changes = 1 + below(4); changes > 0; --changes) change(file);
    // Most of what happens behind the header's length can only be seen where the length still fits.
    if (below(8) != 0 && file.size() >= 8 + data_bytes_) {
      const uint64_t length = file.size() - 8 - data_bytes_;
      std::memcpy(file.data(), &length, sizeof length);
    }
    return file;
  }

 private:
  size_t below(size_t count) { return random_() % count; }

  void change(std::string& file) {
    data_bytes_ = std::array<size_t, 6>{0, 2, 16, 24, 26, 40}[below(6)];
    const size_t at = below(file.size() + 1);
    const size_t count = std::min(below(9), file.size() - at);
    switch (below(7)) {
      case 0:
        file.insert(at, fragments[below(fragments.size())]);
        break;
      case 1:
        file.replace(at, count, fragments[below(fragments.size())]);
        break;
      case 2:
        file.erase(at, count);
        break;
      case 3:
        file.insert(at, file.substr(below(file.size() + 1), below(60)));
        break;
      case 4:
        file.resize(at);
        break;
      case 5:
        if (at < file.size()) file[at] = static_cast<char>(random_());
        break;
      default:
        if (at < file.size()) file[at] = static_cast<char>(file[at] ^ 1 << below(8));
        break;
    }
  }

  std::mt19937_64 random_{20240607};
  size_t data_bytes_ = 0;
};

}  // namespace

int main() {
  for (const std::string& file : valid_files) {
    if (!is_valid_header(file)) return std::puts("a valid header was refused"), 1;
  }
  Mutator mutator;
  int valid = 0;
  constexpr int count = 100'000;
  for (int i = 0; i < count; ++i) valid += is_valid_header(mutator.next());
  std::printf("%d changed headers: %d were still valid, %d were refused\n", count, valid, count - valid);
  return valid > 0 && valid < count ? 0 : 1;
}
