#include <algorithm>
#include <cmath>
#include <cstring>

#include "eri/lora/lora.h"
#include "eri/lora/metadata.h"
#include "eri/lora/names.h"
#include "eri/lora/unknown_tensors.h"
#include "eri/models/file_kind.h"
#include "flame/ops/layout.h"

namespace eri {
namespace {

using flame::DType;
using flame::fail;
using flame::Tensor;
using flame::text;

// Of the file's [out, in, k, k] convolutions, channels come last here.
Tensor read_factor(const flame::SafetensorsFile& file, const std::string& name) {
  const Tensor values = file.tensor(name).to(DType::f32);
  const float* begin = values.data<float>();
  if (!std::all_of(begin, begin + values.numel(), [](float value) { return std::isfinite(value); }))
    fail(name, " has values that are not finite: its training has diverged; take an earlier save");
  if (values.rank() == 4) return flame::channels_last(values);
  if (values.rank() != 2) fail(name, ": expected a factor of 2 or 4 dimensions, got ", values.shape());
  return values;
}

LoRA::Module read_module(const flame::SafetensorsFile& file, const std::string& name,
                         const LoraModuleTensors& tensors) {
  if (tensors.down.empty() && tensors.up.empty()) fail(tensors.alpha, " is an alpha without factors");
  if (tensors.down.empty()) fail("module ", name, " has no lora_down");
  if (tensors.up.empty()) fail("module ", name, " has no lora_up");
  LoRA::Module module{read_factor(file, tensors.down), read_factor(file, tensors.up)};
  if (module.rank() != module.up.dim(-1))
    fail("module ", name, ": lora_down has rank ", module.rank(), ", lora_up has ", module.up.dim(-1));
  module.alpha = tensors.alpha.empty() ? static_cast<double>(module.rank()) : file.tensor(tensors.alpha).item();
  if (!std::isfinite(module.alpha))
    fail(tensors.alpha, " is not finite: its training has diverged; take an earlier save");
  if (module.alpha == 0)
    fail(tensors.alpha,
         " is 0, which programs read differently (sd-scripts as the rank, ComfyUI as no effect): set it to ",
         "the alpha of the training");
  return module;
}

// The module that a name in a file means. Without a model's names, that of a file of ours.
std::optional<LoraNames::Module> find_module(const LoraNames& names, bool any, const std::string& name) {
  if (const auto* module = names.find(name)) return *module;
  if (any && name.starts_with("lora_") && name.find('.') == name.npos) return {{name, LoraNaming::kohya}};
  return std::nullopt;
}

// Another kind of file in a LoRA's place is named; kinds of adapters that are no plain LoRA are named by their tensors.
void require_lora(const flame::SafetensorsFile& file) {
  const FileKind kind = kind_of(file.entries());
  if (kind.use == FileKind::Use::lora || kind.id == "lycoris" || kind.id == "unknown") return;
  fail("this is ", kind.what, ", not a LoRA; give one with --lora that was trained on SDXL");
}

// Programs that take one kind of names drop the others, so that nobody knows what a mixed file does.
void require_one_naming(const std::map<LoraNaming, std::string>& examples) {
  if (examples.size() < 2) return;
  const auto& [first, name] = *examples.begin();
  const auto& [second, other] = *std::next(examples.begin());
  fail("two kinds of names are mixed, ", describe(first), " (", name, ") and ", describe(second), " (", other,
       "): other programs drop one of them; save it again under one kind");
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

LoRA LoRA::from_safetensors(const std::filesystem::path& path, const LoraTargets& targets) try {
  const flame::SafetensorsFile file(path);
  const LoraNames names(targets);
  std::map<std::string, LoraModuleTensors> modules;
  std::map<LoraNaming, std::string> examples;  // of the kinds of names
  std::vector<std::string> unknown, no_alpha;
  for (const auto& [tensor, entry] : file.entries()) {
    const auto parts = split_lora_name(tensor);
    const auto module = parts ? find_module(names, targets.empty(), parts->module) : std::nullopt;
    if (!module) {
      unknown.push_back(tensor);
      continue;
    }
    if (module->naming != LoraNaming::kohya_text) examples.try_emplace(module->naming, tensor);
    std::string& name = modules[module->name].of(parts->role);
    if (!name.empty()) fail("module ", module->name, " is there twice, as ", name, " and ", tensor, ": take one out");
    name = tensor;
  }
  if (modules.empty()) require_lora(file);
  if (!unknown.empty()) fail(sentences(sort_unknown(unknown)));
  require_one_naming(examples);

  LoRA lora;
  if (!examples.empty()) lora.naming_ = examples.begin()->first;
  for (const auto& [name, tensors] : modules) {
    lora.modules_[name] = read_module(file, name, tensors);
    if (tensors.alpha.empty()) no_alpha.push_back(name);
  }
  if (!no_alpha.empty())
    lora.warnings_.push_back(text(path.string(), ": no alpha, so that the scale is 1, for ", listed(no_alpha)));
  return lora;
} catch (const flame::Error& error) {
  const std::string message = error.what();
  if (message.starts_with(path.string())) throw;
  fail(path.string(), ": ", message);
}

void LoRA::save(const std::filesystem::path& path, const flame::Metadata& about, MetadataDetail detail) const {
  if (modules_.empty()) fail("cannot save the LoRA ", path.string(), ": it has no modules");
  const auto tensors = file_tensors(*this);
  const flame::Metadata metadata = lora_metadata(*this, tensors, path.stem().string(), about, detail);
  flame::write_safetensors(path, tensors, metadata);
  verify(path, tensors, metadata);
}

Tensor in_file_layout(const Tensor& factor) {
  return factor.rank() == 4 ? flame::channels_first(factor.detach()) : factor;
}

}  // namespace eri
