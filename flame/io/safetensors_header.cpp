#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <vector>

#include "flame/io/safetensors.h"
#include "flame/io/safetensors_dtype.h"

namespace flame {
namespace {

using Json = nlohmann::json;
using Entry = SafetensorsFile::Entry;

constexpr size_t length_bytes = 8;
constexpr size_t max_header_bytes = 100'000'000;  // the reference implementation's limit
constexpr const char* fetch_again = "copy or download it again";

// A name for a message: names from a hostile file may be megabytes long.
std::string shown(const std::string& name) {
  return "'" + (name.size() <= 200 ? name : name.substr(0, 200) + "...") + "'";
}

// Walks the header's JSON and accepts exactly what the format knows. It builds no tree: a header that is nested or
// repetitive costs no memory.
class HeaderReader final : public nlohmann::json_sax<Json> {
 public:
  struct RawEntry {
    const SafetensorsDType* dtype = nullptr;
    std::optional<std::vector<uint64_t>> shape, offsets;
  };

  explicit HeaderReader(const std::string& file) : file_(file) {}
  std::map<std::string, RawEntry> entries;
  Metadata metadata;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t& digits) override {
    return unexpected(digits.find_first_of(".eE") == std::string::npos ? "a number above 2^64" : "a fraction");
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (at_ != At::numbers) return unexpected("a number");
    numbers_->push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (at_ == At::metadata) {
      metadata[key_] = std::move(value);
    } else if (at_ == At::entry && key_ == "dtype") {
      entries[name_].dtype = parse_dtype(value);
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_object(size_t) override {
    if (at_ == At::start) {
      at_ = At::names;
    } else if (at_ == At::names) {
      at_ = name_ == "__metadata__" ? At::metadata : At::entry;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& key) override {
    if (at_ == At::names) {
      if (!names_.insert(key).second) fail(file_, ": the header names ", shown(key), " twice");
      name_ = std::move(key);
      if (name_ != "__metadata__") entries[name_];
      return true;
    }
    if (at_ == At::metadata && metadata.contains(key)) fail(file_, ": the metadata names ", shown(key), " twice");
    if (at_ == At::entry) check_field(key);
    key_ = std::move(key);
    return true;
  }

  bool end_object() override {
    at_ = at_ == At::names ? At::end : At::names;
    return true;
  }

  bool start_array(size_t) override {
    RawEntry* entry = at_ == At::entry && key_ != "dtype" ? &entries[name_] : nullptr;
    if (!entry) return unexpected("a list");
    numbers_ = &(key_ == "shape" ? entry->shape : entry->offsets).emplace();
    at_ = At::numbers;
    return true;
  }

  bool end_array() override {
    at_ = At::entry;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    const bool utf8 = std::string_view(error.what()).find("UTF-8") != std::string_view::npos;
    fail(file_, ": the header is not valid ", utf8 ? "UTF-8" : "JSON", " (byte ", position, " of it); ", fetch_again);
  }

 private:
  enum class At { start, names, metadata, entry, numbers, end };

  bool unexpected(const char* what) {
    switch (at_) {
      case At::start:
        fail(file_, ": the header is ", what, ", expected a JSON object");
      case At::names:
        fail(file_, ": the header has ", what, " for ", shown(name_), ", expected an object");
      case At::metadata:
        fail(file_, ": metadata ", shown(key_), " is ", what, ", expected a string");
      default:
        fail(file_, ": ", key_, " of tensor ", shown(name_), " holds ", what, ", which does not belong there");
    }
  }

  void check_field(const std::string& field) const {
    const RawEntry& entry = entries.at(name_);
    const bool known = field == "dtype" || field == "shape" || field == "data_offsets";
    if (!known) fail(file_, ": tensor ", shown(name_), " has an unknown field ", shown(field));
    const bool given =
        field == "dtype" ? entry.dtype != nullptr : (field == "shape" ? entry.shape : entry.offsets).has_value();
    if (given) fail(file_, ": tensor ", shown(name_), " has the field ", field, " twice");
  }

  const SafetensorsDType* parse_dtype(const std::string& name) const {
    for (const auto& row : safetensors_dtypes) {
      if (row.name == name) return &row;
    }
    const bool known = std::ranges::find(safetensors_unsupported, name) != safetensors_unsupported.end();
    fail(file_, ": tensor ", shown(name_), " has the dtype ", shown(name), known ? ", which is not supported" : "",
         "; expected F32, F16, BF16, F8_E4M3, F8_E5M2, F64, I64, I32, U8 or BOOL: convert the file, to F16 for "
         "instance");
  }

  const std::string& file_;
  At at_ = At::start;
  std::set<std::string> names_;
  std::string name_, key_;
  std::vector<uint64_t>* numbers_ = nullptr;
};

// The number of bytes that a shape asks for; nothing if that does not fit in a size.
std::optional<size_t> bytes_of(const std::vector<uint64_t>& shape, size_t element) {
  int64_t product = static_cast<int64_t>(element);
  for (uint64_t extent : shape) {
    if (extent > INT64_MAX) return {};
    // An extent of 0 must not hide an overflow of the others.
    const int64_t factor = extent == 0 ? 1 : static_cast<int64_t>(extent);
    if (__builtin_mul_overflow(product, factor, &product)) return {};
  }
  return std::ranges::find(shape, 0u) != shape.end() ? 0 : static_cast<size_t>(product);
}

Entry checked_entry(const std::string& name, const HeaderReader::RawEntry& raw, size_t data_bytes,
                    const std::string& file) {
  const char* missing = !raw.dtype ? "dtype" : !raw.shape ? "shape" : !raw.offsets ? "data_offsets" : nullptr;
  if (missing) fail(file, ": tensor ", shown(name), " has no ", missing);
  if (raw.shape->size() > Shape::max_rank) {
    fail(file, ": tensor ", shown(name), " has ", raw.shape->size(), " extents, at most ", Shape::max_rank,
         " are supported");
  }
  const std::optional<size_t> bytes = bytes_of(*raw.shape, raw.dtype->bytes);
  if (!bytes) fail(file, ": the shape of tensor ", shown(name), " is too large for any file");

  const auto& offsets = *raw.offsets;
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    fail(file, ": data_offsets of tensor ", shown(name), " must be [begin, end]");
  }
  const Shape shape(std::vector<int64_t>(raw.shape->begin(), raw.shape->end()));
  if (offsets[1] - offsets[0] != *bytes) {
    fail(file, ": tensor ", shown(name), " of shape ", shape, " and dtype ", raw.dtype->name, " needs ", *bytes,
         " bytes, its data_offsets hold ", offsets[1] - offsets[0]);
  }
  if (offsets[1] > data_bytes) {
    fail(file, ": the file is cut short: tensor ", shown(name), " ends at byte ", offsets[1],
         " of the data, the file has ", data_bytes, "; ", fetch_again);
  }
  return {raw.dtype->dtype, shape, offsets[0], *bytes, raw.dtype->name};
}

// Tensors must tile the data: anything else hides bytes or lets two tensors share some.
void check_tiling(const std::map<std::string, Entry>& entries, size_t data_bytes, const std::string& file) {
  std::vector<const std::pair<const std::string, Entry>*> order;
  for (const auto& entry : entries) order.push_back(&entry);
  std::ranges::sort(order, {}, [](auto* entry) { return std::pair(entry->second.begin, entry->second.bytes); });
  size_t end = 0;
  for (const auto* entry : order) {
    const size_t begin = entry->second.begin;
    if (begin < end) fail(file, ": tensor ", shown(entry->first), " overlaps the tensor before it");
    if (begin > end)
      fail(file, ": ", begin - end, " bytes before tensor ", shown(entry->first), " belong to no tensor");
    end += entry->second.bytes;
  }
  if (end != data_bytes) fail(file, ": ", data_bytes - end, " bytes after the last tensor belong to no tensor");
}

// What people most often have instead of a safetensors file.
std::string other_format(std::string_view bytes) {
  struct Format {
    std::string_view start;
    const char* remedy;
  };
  constexpr std::array formats = {
      Format{"PK\x03\x04", "; it is a PyTorch checkpoint (.pt, .ckpt): convert it to safetensors"},
      Format{"\x80\x02", "; it is a PyTorch checkpoint (.pt, .ckpt): convert it to safetensors"},
      Format{"GGUF", "; it is a GGUF file: get the safetensors version of this model"},
      Format{"version https://git-lfs", "; it is a Git LFS pointer: run `git lfs pull` to get the file itself"},
      Format{"<", "; it is a web page: the download asked for a login or another address"}};
  for (const auto& format : formats) {
    if (bytes.starts_with(format.start)) return format.remedy;
  }
  return "";
}

std::string_view header_text(std::string_view bytes, size_t file_bytes, const std::string& file) {
  if (file_bytes < length_bytes)
    fail(file, ": not a safetensors file: it has only ", file_bytes, " bytes; ", fetch_again);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), length_bytes);
  if (length > max_header_bytes) {
    fail(file, ": not a safetensors file: it announces a header of ", length, " bytes, at most ", max_header_bytes,
         " are allowed", other_format(bytes));
  }
  if (length > file_bytes - length_bytes) {
    fail(file, ": the file is cut short: it announces a header of ", length, " bytes and has ",
         file_bytes - length_bytes, " after the length; ", fetch_again);
  }
  require(bytes.size() >= length_bytes + length, "parse_safetensors_header", "expected the whole header");
  return bytes.substr(length_bytes, length);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view start_of_file, size_t file_bytes, const std::string& file) {
  const std::string_view header = header_text(start_of_file, file_bytes, file);
  if (!header.starts_with('{')) fail(file, ": not a safetensors file: its header does not begin with '{'");
  // The JSON library takes a zero byte for the end of its input and would not look behind it.
  if (header.find('\0') != std::string_view::npos) fail(file, ": the header contains a zero byte; ", fetch_again);

  HeaderReader reader(file);
  Json::sax_parse(header.begin(), header.end(), &reader);

  SafetensorsHeader result;
  result.data_begin = length_bytes + header.size();
  result.metadata = std::move(reader.metadata);
  const size_t data_bytes = file_bytes - result.data_begin;
  for (const auto& [name, raw] : reader.entries) {
    result.entries.emplace(name, checked_entry(name, raw, data_bytes, file));
  }
  check_tiling(result.entries, data_bytes, file);
  return result;
}

}  // namespace flame
