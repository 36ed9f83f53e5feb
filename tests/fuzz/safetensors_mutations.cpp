#include <algorithm>
#include <array>
#include <cstdio>
#include <iterator>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "tests/fuzz/check_header.h"

// Changes valid files at random, always the same way, and parses them: for machines without clang's fuzzer.
namespace {

std::string file_of(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + std::string(data_bytes, '\0');
}

struct ValidFile {
  std::string header;
  size_t data_bytes;
};
const std::array valid_files = {
    ValidFile{"{}", 0}, ValidFile{R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}   )", 24},
    ValidFile{
        R"({"__metadata__":{"ss_tag":"{\"a\": 1}","größe":"x"},"n":{"dtype":"F16","shape":[],"data_offsets":[0,2]},)"
        R"("z":{"dtype":"BOOL","shape":[0,7],"data_offsets":[2,2]},)"
        R"("b":{"dtype":"I64","shape":[3],"data_offsets":[2,26]}})",
        26},
    ValidFile{R"({"x":{"shape":[1,1,1,1,1,4],"data_offsets":[8,16],"dtype":"BF16"},)"
              R"("y":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
              16}};

std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}
const std::vector<std::string> fragments = words(
    R"({ } [ ] , : " {} [] 0 7 -1 2.5 1e9 4611686018427387904 18446744073709551615 null true \u0000 [[[[[ {"a":{ )"
    R"("F64" "F16" "dtype": "shape":[ "data_offsets":[0,8] "__metadata__": "a":)");

class Mutator {
 public:
  // Most changes are within the header, with the length that it then has: a wrong length is refused before the JSON is.
  std::string next() {
    const ValidFile& valid = valid_files[below(valid_files.size())];
    std::string header = valid.header;
    for (size_t changes = 1 + below(3); changes > 0; --changes) change(header);
    std::string file = file_of(header, below(8) != 0 ? valid.data_bytes : below(64));
    if (below(8) == 0) change(file);
    return file;
  }

 private:
  size_t below(size_t count) { return random_() % count; }

  void change(std::string& file) {
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
        change_digit(file, file.find_first_of("0123456789", at));
        break;
      default:
        file.replace(at, count != 0, 1, static_cast<char>(random_()));
        break;
    }
  }

  void change_digit(std::string& file, size_t at) {
    if (at != file.npos) file[at] = static_cast<char>('0' + below(10));
  }

  std::mt19937_64 random_{20240607};
};

}  // namespace

int main() {
  for (const auto& [header, data_bytes] : valid_files) {
    if (!is_valid_header(file_of(header, data_bytes))) return std::puts("a valid header was refused"), 1;
  }
  Mutator mutator;
  int valid = 0;
  constexpr int count = 100'000;
  for (int i = 0; i < count; ++i) valid += is_valid_header(mutator.next());
  std::printf("%d changed headers: %d were still valid, %d were refused\n", count, valid, count - valid);
  return valid > 0 && valid < count ? 0 : 1;
}
