#include "flame/io/safetensors.h"

#include <algorithm>
#include <vector>

#include "flame/core/closest.h"
#include "flame/io/foreign_dtypes.h"
#include "flame/io/mapped_file.h"

namespace flame {

struct SafetensorsFile::Mapping {
  explicit Mapping(const std::filesystem::path& path)
      : file(path), header(parse_safetensors_header(file.view(), file.bytes(), path.string())) {}
  const std::byte* data() const { return file.data() + header.data_begin; }

  MappedFile file;
  SafetensorsHeader header;
};

namespace {

// A tensor's bytes in a mapped file. Once nobody needs them, they no longer count as memory of this process.
struct Borrowed {
  Borrowed(std::shared_ptr<const MappedFile> file, const std::byte* begin, size_t bytes)
      : file(std::move(file)), begin(begin), bytes(bytes) {}
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() { file->release(begin, bytes); }

  std::shared_ptr<const MappedFile> file;
  const std::byte* begin;
  size_t bytes;
};

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : mapping_(std::make_shared<Mapping>(path)) {}

const std::filesystem::path& SafetensorsFile::path() const { return mapping_->file.path(); }
const std::map<std::string, SafetensorsFile::Entry>& SafetensorsFile::entries() const {
  return mapping_->header.entries;
}
const Metadata& SafetensorsFile::metadata() const { return mapping_->header.metadata; }
bool SafetensorsFile::contains(const std::string& name) const { return entries().contains(name); }
const std::byte* SafetensorsFile::data() const { return mapping_->data(); }
size_t SafetensorsFile::data_bytes() const { return mapping_->file.bytes() - mapping_->header.data_begin; }
void SafetensorsFile::read_ahead(std::stop_token stop) const { mapping_->file.read_ahead(std::move(stop)); }

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const auto found = entries().find(name);
  if (found == entries().end()) {
    std::vector<std::string> names;
    for (const auto& [known, entry] : entries()) names.push_back(known);
    fail(path().string(), ": there is no tensor ", name, closest_or_any(name, names));
  }
  const Entry& entry = found->second;
  const std::byte* bytes = data() + entry.begin;
  if (entry.dtype == DType::boolean) {
    const bool valid = std::all_of(bytes, bytes + entry.bytes, [](std::byte b) { return b <= std::byte{1}; });
    if (!valid) fail(path().string(), ": tensor '", name, "' is BOOL and holds bytes other than 0 and 1");
  }
  const auto borrowed = std::make_shared<const Borrowed>(std::shared_ptr<const MappedFile>(mapping_, &mapping_->file),
                                                         bytes, entry.bytes);
  const bool is_converted = entry.bytes != static_cast<size_t>(entry.shape.numel()) * size_of(entry.dtype);
  if (is_converted) return converted_from(entry.stored, bytes, entry.shape);
  if (reinterpret_cast<uintptr_t>(bytes) % size_of(entry.dtype) == 0)
    return Tensor::borrowed(bytes, entry.shape, entry.dtype, borrowed, &mapping_->file);
  const Tensor copy = Tensor::empty(entry.shape, entry.dtype);
  std::copy_n(bytes, entry.bytes, copy.raw());
  return copy;
}

}  // namespace flame
