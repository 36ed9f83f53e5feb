#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <vector>

#include "flame/io/safetensors.h"
#include "flame/io/safetensors_dtype.h"

namespace flame {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

using Named = const std::pair<const std::string, Tensor>;

size_t row_of(DType dtype) {
  return std::ranges::find(safetensors_dtypes, dtype, &SafetensorsDType::dtype) - safetensors_dtypes.begin();
}

std::vector<Named*> canonical_order(const std::map<std::string, Tensor>& tensors) {
  std::vector<Named*> order;
  for (const auto& named : tensors) {
    require(named.second.defined(), "write_safetensors", "tensor '", named.first, "' is undefined");
    require(named.first != "__metadata__", "write_safetensors", "no tensor may be named __metadata__");
    order.push_back(&named);
  }
  std::ranges::stable_sort(order, {}, [](Named* named) { return row_of(named->second.dtype()); });
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
    const Tensor& tensor = named->second;
    std::string extents;
    for (int64_t extent : tensor.shape()) extents.append(extents.empty() ? "" : ",").append(std::to_string(extent));
    const size_t end = begin + tensor.bytes();
    add(named->first)
        .append(text("{\"dtype\":\"", safetensors_dtypes[row_of(tensor.dtype())].name, "\",\"shape\":[", extents,
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
  return header_of(canonical_order(tensors), metadata);
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                       const Metadata& metadata) {
  const std::vector<Named*> order = canonical_order(tensors);
  const std::string header = header_of(order, metadata);
  size_t bytes = header.size();
  for (const Named* named : order) bytes += named->second.bytes();

  AtomicFile file(path, bytes);
  file.write(header.data(), header.size());
  for (const Named* named : order) {
    const Tensor host = named->second.to(Device::cpu());
    file.write(host.raw(), host.bytes());
  }
  file.commit();
}

}  // namespace flame
