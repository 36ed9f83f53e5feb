#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <vector>

#include "flame/io/safetensors.h"
#include "flame/io/safetensors_dtype.h"

namespace flame {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

using Specs = std::map<std::string, TensorSpec>;
using Named = const Specs::value_type;

size_t row_of(DType dtype) {
  const auto stores = [dtype](const SafetensorsDType& row) {
    return row.dtype == dtype && row.bytes == size_of(dtype);  // F8 and F64 are only read
  };
  return std::ranges::find_if(safetensors_dtypes, stores) - safetensors_dtypes.begin();
}

size_t bytes_of(const TensorSpec& spec) { return static_cast<size_t>(spec.shape.numel()) * size_of(spec.dtype); }

Specs specs_of(const std::map<std::string, Tensor>& tensors) {
  Specs specs;
  for (const auto& [name, tensor] : tensors) {
    require(tensor.defined(), "write_safetensors", "tensor '", name, "' is undefined");
    specs.emplace(name, TensorSpec{tensor.dtype(), tensor.shape()});
  }
  return specs;
}

std::vector<Named*> canonical_order(const Specs& tensors) {
  std::vector<Named*> order;
  for (const auto& named : tensors) {
    require(named.first != "__metadata__", "write_safetensors", "no tensor may be named __metadata__");
    order.push_back(&named);
  }
  std::ranges::stable_sort(order, {}, [](Named* named) { return row_of(named->second.dtype); });
  return order;
}

std::string quoted(const std::string& value) {
  try {
    return nlohmann::json(value).dump();
  } catch (const nlohmann::json::exception&) {
    fail("write_safetensors: the name or value '", value, "' is not valid UTF-8");
  }
}

std::string header_of(const std::vector<Named*>& order, const Metadata& metadata) {
  std::string json;
  const auto add = [&json](const std::string& key) -> std::string& {
    return json.append(json.empty() ? "{" : ",").append(quoted(key)).append(":");
  };
  if (!metadata.empty()) {
    std::string values;
    for (const auto& [key, value] : metadata) {
      values.append(values.empty() ? "{" : ",").append(quoted(key)).append(":").append(quoted(value));
    }
    add("__metadata__").append(values).append("}");
  }
  size_t begin = 0;
  for (const Named* named : order) {
    const TensorSpec& tensor = named->second;
    std::string extents;
    for (int64_t extent : tensor.shape) extents.append(extents.empty() ? "" : ",").append(std::to_string(extent));
    const size_t end = begin + bytes_of(tensor);
    add(named->first)
        .append(text("{\"dtype\":\"", safetensors_dtypes[row_of(tensor.dtype)].name, "\",\"shape\":[", extents,
                     "],\"data_offsets\":[", begin, ",", end, "]}"));
    begin = end;
  }
  json.append(json.empty() ? "{}" : "}");
  json.append((8 - json.size() % 8) % 8, ' ');
  const uint64_t length = json.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + json;
}

}  // namespace

std::string safetensors_header(const std::map<std::string, Tensor>& tensors, const Metadata& metadata) {
  const Specs specs = specs_of(tensors);
  return header_of(canonical_order(specs), metadata);
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                       const Metadata& metadata) {
  write_safetensors(
      path, specs_of(tensors), [&](const std::string& name) { return tensors.at(name); }, metadata);
}

void write_safetensors(const std::filesystem::path& path, const Specs& tensors,
                       const std::function<Tensor(const std::string& name)>& make, const Metadata& metadata) {
  const std::vector<Named*> order = canonical_order(tensors);
  const std::string header = header_of(order, metadata);
  size_t bytes = header.size();
  for (const Named* named : order) bytes += bytes_of(named->second);

  AtomicFile file(path, bytes);
  file.write(header.data(), header.size());
  for (const Named* named : order) {
    const auto& [name, spec] = *named;
    const Tensor host = make(name).to(Device::cpu());
    require(host.shape() == spec.shape && host.dtype() == spec.dtype, "write_safetensors", "expected ", spec.shape, " ",
            spec.dtype, " for ", name, ", got ", host.shape(), " ", host.dtype());
    file.write(host.raw(), host.bytes());
  }
  file.commit();
}

}  // namespace flame
