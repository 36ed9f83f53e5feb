#include "eri/lora/verify.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "eri/lora/lora.h"
#include "eri/lora/metadata.h"

namespace eri {
namespace {

using flame::SafetensorsFile;
using flame::Tensor;
using flame::text;

bool zero(const Tensor& tensor) {
  const float* begin = tensor.data<float>();
  return std::all_of(begin, begin + tensor.numel(), [](float v) { return v == 0; });
}

void check_tensors(const SafetensorsFile& file, std::vector<std::string>& complaints) {
  for (const auto& [name, entry] : file.entries()) {
    if (entry.dtype != flame::DType::f16) complaints.push_back(text(name, " is ", entry.dtype, ", expected f16"));
    if (name.ends_with(kLoraAlpha) && entry.shape.rank() != 0)
      complaints.push_back(text(name, " has shape ", entry.shape, ", expected a scalar"));
  }
}

// Alphas in a file are rounded to F16, the number in its metadata is as it was meant.
std::string as_in_tensors(const std::string& key, const std::string& value) {
  char* end = nullptr;
  const float number = std::strtof(value.c_str(), &end);
  const bool is_alpha = key == "ss_network_alpha" && !value.empty() && *end == '\0';
  return is_alpha ? python_text(static_cast<float>(flame::f16(number))) : value;
}

// Hashes and layout are right if the file is what we would write of the same tensors and metadata.
void check_container(const SafetensorsFile& file, const LoRA& lora, std::vector<std::string>& complaints) {
  const flame::Metadata& metadata = file.metadata();
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : file.entries()) tensors[name] = file.tensor(name);
  flame::Metadata expected = lora_hashes(tensors, metadata);
  expected.merge(describe_modules(lora));
  for (const char* key : {"ss_v2", "ss_base_model_version", "modelspec.architecture", "ss_network_module",
                          "ss_network_dim", "ss_network_alpha", "sshs_model_hash", "sshs_legacy_hash"}) {
    const auto found = metadata.find(key);
    if (found == metadata.end())
      complaints.push_back(text("the metadata lacks ", key));
    else if (as_in_tensors(key, found->second) != expected.at(key))
      complaints.push_back(text(key, " is ", found->second, ", expected ", expected.at(key)));
  }
  const std::string header = flame::safetensors_header(tensors, metadata);
  if (std::memcmp(file.data() - header.size(), header.data(), header.size()) != 0)
    complaints.push_back("the header is not in the canonical layout, so that other programs compute other hashes");
  constexpr size_t most = 1 << 20;
  if (header.size() >= most)
    complaints.push_back(text("the header has ", header.size(), " bytes, ComfyUI shows metadata of less than ", most));
}

}  // namespace

LoraReport verify_lora(const std::filesystem::path& path, const LoraTargets& targets) {
  const SafetensorsFile file(path);
  const LoRA lora = LoRA::from_safetensors(path, targets);
  LoraReport report{lora.warnings(), lora.modules().size(), 0, lora.ranks(), modules_loaded(file, targets)};
  if (lora.naming() != LoraNaming::kohya)
    report.complaints.push_back(text("it has ", describe(lora.naming()), ", which not every program loads completely"));
  check_tensors(file, report.complaints);
  check_container(file, lora, report.complaints);
  for (const auto& [name, module] : lora.modules()) {
    const auto target = std::find_if(targets.begin(), targets.end(), [&](auto& t) { return t.name == name; });
    if (module.down.dim(-1) != target->in() || module.up.dim(0) != target->out()) {
      report.complaints.push_back(text(name, " takes ", module.down.dim(-1), " to ", module.up.dim(0),
                                       ", the layer takes ", target->in(), " to ", target->out()));
    }
    report.without_effect += zero(module.up);
  }
  if (report.without_effect == report.modules)
    report.complaints.push_back("no module has any effect: all `up` are zero");
  return report;
}

}  // namespace eri
