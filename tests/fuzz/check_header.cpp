#include "tests/fuzz/check_header.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "flame/io/safetensors.h"
#include "flame/io/safetensors_dtype.h"

namespace {

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "the parser accepted a header where not: %s\n", what);
  std::abort();
}

void check(const flame::SafetensorsHeader& header, size_t file_bytes) {
  expect(header.data_begin >= 8 && header.data_begin <= file_bytes, "the data begins within the file");
  const size_t data_bytes = file_bytes - header.data_begin;
  std::vector<bool> taken(data_bytes);
  for (const auto& [name, entry] : header.entries) {
    const auto row = std::ranges::find(flame::safetensors_dtypes, entry.stored, &flame::SafetensorsDType::name);
    expect(row != flame::safetensors_dtypes.end(), "a tensor has a dtype of the format");
    size_t bytes = row->bytes;
    for (int64_t extent : entry.shape) bytes *= static_cast<size_t>(extent);
    expect(bytes == entry.bytes, "a tensor has the bytes of its shape");
    expect(entry.begin <= data_bytes && entry.bytes <= data_bytes - entry.begin, "a tensor lies in the data");
    for (size_t i = entry.begin; i < entry.begin + entry.bytes; ++i) {
      expect(!taken[i], "no byte belongs to two tensors");
      taken[i] = true;
    }
  }
  for (const bool byte : taken) expect(byte, "every byte belongs to a tensor");
}

}  // namespace

bool is_valid_header(std::string_view file) {
  try {
    check(flame::parse_safetensors_header(file, file.size(), "fuzzed"), file.size());
    return true;
  } catch (const flame::Error&) {
    return false;
  }
}
