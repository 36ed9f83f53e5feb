#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include "flame/core/tensor.h"
#include "flame/io/atomic_file.h"

// The safetensors format (https://github.com/huggingface/safetensors): a JSON header and raw little-endian tensors.
namespace flame {

using Metadata = std::map<std::string, std::string>;

// A file mapped into memory. Opening checks the whole header: every error names the file and what is wrong with it.
class SafetensorsFile {
 public:
  struct Entry {
    DType dtype;  // of the tensor; F8 is read as f16, F64 as f32
    Shape shape;
    size_t begin;  // in the data section
    size_t bytes;
    std::string_view stored;  // the format's name for the dtype in the file: "F16", "F8_E4M3"
  };

  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::filesystem::path& path() const;
  const std::map<std::string, Entry>& entries() const;
  const Metadata& metadata() const;
  bool contains(const std::string& name) const;
  // Borrows the mapped bytes where they are aligned for the dtype and need no conversion; their pages are given back
  // with the tensor. Throws with the closest name if there is none.
  Tensor tensor(const std::string& name) const;
  const std::byte* data() const;  // the data section
  size_t data_bytes() const;
  void read_ahead(std::stop_token stop) const;  // see MappedFile

 private:
  struct Mapping;
  std::shared_ptr<const Mapping> mapping_;
};

// Reads a header from bytes alone (what the fuzzer calls); `file_bytes` is the size of the whole file.
struct SafetensorsHeader {
  std::map<std::string, SafetensorsFile::Entry> entries;
  Metadata metadata;
  size_t data_begin;
};
SafetensorsHeader parse_safetensors_header(std::string_view start_of_file, size_t file_bytes, const std::string& file);

// Writes the canonical layout (sorted by dtype rank, then name; a header that begins with {" and is padded to 8): to a
// temporary file beside `path`, fsync, rename. Checks the free space first; leaves nothing behind on failure.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                       const Metadata& metadata = {});
// The same for tensors that are made when their turn comes, so that a file may be larger than memory. `make` is called
// once a name, in the order of the file.
struct TensorSpec {
  DType dtype;
  Shape shape;
};
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorSpec>& tensors,
                       const std::function<Tensor(const std::string& name)>& make, const Metadata& metadata = {});
// The bytes of the header that write_safetensors would write, its 8-byte length included.
std::string safetensors_header(const std::map<std::string, Tensor>& tensors, const Metadata& metadata);

}  // namespace flame
