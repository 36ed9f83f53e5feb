#include <algorithm>
#include <cmath>
#include <cstring>

#include "eri/lora/lora.h"
#include "eri/lora/metadata.h"
#include "flame/ops/layout.h"

namespace eri {
namespace {

using flame::DType;
using flame::fail;
using flame::Tensor;
using flame::text;

std::string why_unknown(const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != name.npos; };
  if (has("lora_A.") || has("lora_B.")) return "these are PEFT names; kohya's are needed";
  if (has(".hada_") || has(".lokr_") || has(".oft_")) return "LyCORIS kinds other than LoRA are not supported";
  if (has(".dora_scale")) return "DoRA is not supported";
  if (has(".lora_mid")) return "Tucker-decomposed convolutions are not supported";
  return "a LoRA has MODULE.lora_down.weight, MODULE.lora_up.weight and MODULE.alpha";
}

// Of the file's [out, in, k, k] convolutions, channels come last here.
Tensor from_file_layout(const Tensor& factor) {
  const Tensor values = factor.to(DType::f32);
  if (values.rank() == 4) return flame::channels_last(values);
  if (values.rank() != 2) fail("expected a factor of 2 or 4 dimensions, got ", values.shape());
  return values;
}

std::map<std::string, Tensor> file_tensors(const LoRA& lora) {
  std::map<std::string, Tensor> tensors;
  const auto add = [&](const std::string& name, const Tensor& value) {
    const Tensor host = value.to(flame::Device::cpu()).to(DType::f32), half = host.to(DType::f16);
    for (int64_t i = 0; i < half.numel(); ++i) {
      if (!std::isfinite(static_cast<float>(half.data<flame::f16>()[i])))
        fail("cannot save the LoRA: ", name, " has the value ", host.data<float>()[i],
             ", F16 goes to 65504: the training has diverged");
    }
    tensors[name] = half;
  };
  for (const auto& [name, module] : lora.modules()) {
    add(name + kLoraDown, in_file_layout(module.down));
    add(name + kLoraUp, in_file_layout(module.up));
    add(name + kLoraAlpha, Tensor::full({}, module.alpha));
  }
  return tensors;
}

// What was written is read again: a disk that lies is found now and not by the user of the file.
void verify(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
            const flame::Metadata& metadata) {
  const flame::SafetensorsFile file(path);
  bool same = file.entries().size() == tensors.size() && file.metadata() == metadata;
  for (const auto& [name, tensor] : tensors) {
    if (!same) break;
    const Tensor read = file.tensor(name);
    same = read.shape() == tensor.shape() && read.dtype() == tensor.dtype() &&
           std::memcmp(read.raw(), tensor.raw(), tensor.bytes()) == 0;
  }
  if (!same) fail(path.string(), ": what was written could not be read back");
}

}  // namespace

LoRA LoRA::from_safetensors(const std::filesystem::path& path) try {
  const flame::SafetensorsFile file(path);
  LoRA lora;
  std::vector<std::string> unknown, no_alpha;
  for (const auto& [tensor_name, entry] : file.entries()) {
    const size_t dot = tensor_name.find('.');
    const std::string name = tensor_name.substr(0, dot), suffix = tensor_name.substr(std::min(dot, tensor_name.size()));
    const bool ours = name.starts_with("lora_");
    if (ours && suffix == kLoraDown) {
      lora.modules_[name].down = from_file_layout(file.tensor(tensor_name));
    } else if (ours && suffix == kLoraUp) {
      lora.modules_[name].up = from_file_layout(file.tensor(tensor_name));
    } else if (!ours || suffix != kLoraAlpha) {
      unknown.push_back(tensor_name);
    }
  }
  if (!unknown.empty()) fail("tensors that no LoRA of kohya's has: ", listed(unknown), "; ", why_unknown(unknown[0]));
  for (const auto& [name, entry] : file.entries()) {
    if (name.ends_with(kLoraAlpha) && !lora.modules_.contains(name.substr(0, name.find('.')))) unknown.push_back(name);
  }
  if (!unknown.empty()) fail("alphas without factors: ", listed(unknown));
  for (auto& [name, module] : lora.modules_) {
    if (!module.down.defined()) fail("module ", name, " has no lora_down");
    if (!module.up.defined()) fail("module ", name, " has no lora_up");
    if (module.rank() != module.up.dim(-1))
      fail("module ", name, ": lora_down has rank ", module.rank(), ", lora_up has ", module.up.dim(-1));
    const bool has_alpha = file.contains(name + kLoraAlpha);
    module.alpha = has_alpha ? file.tensor(name + kLoraAlpha).item() : static_cast<double>(module.rank());
    if (!has_alpha) no_alpha.push_back(name);
  }
  if (!no_alpha.empty())
    lora.warnings_.push_back(text(path.string(), ": no alpha, so that the scale is 1, for ", listed(no_alpha)));
  return lora;
} catch (const flame::Error& error) {
  const std::string message = error.what();
  if (message.starts_with(path.string())) throw;
  fail(path.string(), ": ", message);
}

void LoRA::save(const std::filesystem::path& path, const flame::Metadata& about) const {
  if (modules_.empty()) fail("cannot save the LoRA ", path.string(), ": it has no modules");
  const auto tensors = file_tensors(*this);
  const flame::Metadata metadata = lora_metadata(*this, tensors, path.stem().string(), about);
  flame::write_safetensors(path, tensors, metadata);
  verify(path, tensors, metadata);
}

Tensor in_file_layout(const Tensor& factor) {
  return factor.rank() == 4 ? flame::channels_first(factor.detach()) : factor;
}

}  // namespace eri
