#include "eri/models/inventory.h"

#include <algorithm>

namespace eri {

using namespace flame;
namespace fs = std::filesystem;

namespace {

constexpr const char *kUNet = "UNet", *kVae = "VAE", *kClipL = "text encoder CLIP-L", *kClipG = "text encoder CLIP-G",
                     *kOther = "other";

struct Named {
  const char *place, *part;
};
// Where a file with several parts has them: how names begin.
constexpr Named prefixes[] = {
    {"model.diffusion_model.", kUNet},
    {"model_ema.", "UNet, averaged (EMA)"},
    {"first_stage_model.", kVae},
    {"conditioner.embedders.0.transformer.", kClipL},
    {"conditioner.embedders.0.model.", kClipG},  // the refiner's
    {"conditioner.embedders.1.", kClipG},
    {"cond_stage_model.", "text encoder"},
    {"text_encoders.clip_l.", kClipL},
    {"text_encoders.clip_g.", kClipG},
    {"text_encoders.t5xxl.", "text encoder T5"},
    {"vae.", kVae},
    {"control_model.", "ControlNet"},
};
// Folders of a diffusers model.
constexpr Named folders[] = {
    {"unet", kUNet},          {"transformer", "transformer"}, {"vae", kVae},
    {"text_encoder", kClipL}, {"text_encoder_2", kClipG},     {"text_encoder_3", "text encoder T5"},
};

// What a file of one part is called, by its kind.
constexpr Named alone[] = {
    {"t5", "text encoder T5"},
    {"embedding", "embedding"},
    {"controlnet", "ControlNet"},
    {"ip-adapter", "IP-Adapter"},
    {"lycoris", "LyCORIS"},
    {"flux", "transformer"},
    {"sd3", "transformer"},
    {"vae-other", kVae},
    {"sdxl-unet", kUNet},
    {"unet", kUNet},
    {"vae", kVae},
    {"clip", "text encoder"},
    {"clip-l", kClipL},
    {"clip-g", kClipG},
    {"inpainting", kUNet},
    {"pix2pix", kUNet},
    {"sd1", kUNet},
    {"sd2", kUNet},
    {"sdxl-refiner", kUNet},
};

bool is_transformer(const FileKind& kind) { return kind.id == "flux" || kind.id == "sd3"; }

std::string part_of(const std::string& name, const FileKind& kind) {
  if (kind.use == FileKind::Use::lora) return "LoRA";
  const bool is_marker = name.find('.') == std::string::npos && kind.id != "embedding";
  if (is_marker) return kOther;
  for (const auto& [prefix, part] : prefixes) {
    if (name.starts_with(prefix)) return part == kUNet && is_transformer(kind) ? "transformer" : part;
  }
  const auto* found = std::ranges::find(alone, kind.id, &Named::place);
  return found == std::end(alone) ? kOther : found->part;
}

void add_files(Inventory& inventory, const WeightFiles& weights) {
  for (const SafetensorsFile& file : weights.files()) {
    inventory.files.push_back(file.path());
    inventory.metadata.insert(file.metadata().begin(), file.metadata().end());
  }
  inventory.bytes += weights.bytes();
}

void add(Inventory& inventory, const std::string& part, const SafetensorsFile::Entry& entry, bool has_parameters) {
  for (Inventory::Count* count : {&inventory.parts[part], &inventory.whole}) {
    ++count->tensors;
    if (has_parameters) count->add(entry);
  }
}

Inventory of_folder(const fs::path& folder) {
  Inventory inventory;
  std::optional<WeightFiles::Entries> unet;
  for (const auto& [place, part] : folders) {
    if (!fs::is_directory(folder / place)) continue;
    const WeightFiles weights(folder / place);
    add_files(inventory, weights);
    for (const auto& [name, entry] : weights.entries()) add(inventory, part, entry, true);
    if (!unet) unet = weights.entries();  // or the transformer: the first that there is
  }
  inventory.kind = kind_of(*unet);
  if (inventory.kind.use == FileKind::Use::unet && inventory.parts.contains(kClipL) && inventory.parts.contains(kClipG))
    inventory.kind = {"sdxl", "an SDXL model in a diffusers folder", FileKind::Use::whole, ""};
  return inventory;
}

Inventory of_file(const fs::path& path) {
  const WeightFiles weights(path);
  Inventory inventory;
  inventory.kind = kind_of(weights.entries());
  add_files(inventory, weights);
  for (const auto& [name, entry] : weights.entries()) {
    const bool is_alpha = inventory.kind.use == FileKind::Use::lora && name.ends_with(".alpha");
    add(inventory, part_of(name, inventory.kind), entry, !is_alpha);
  }
  return inventory;
}

}  // namespace

void Inventory::Count::add(const SafetensorsFile::Entry& entry) {
  if (!is_floating(entry.dtype)) return;
  parameters += entry.shape.numel();
  precisions[std::string(entry.stored)] += entry.shape.numel();
}

Inventory inventory_of(const fs::path& path) {
  const bool is_model =
      fs::is_directory(path) && std::any_of(std::begin(folders), std::end(folders),
                                            [&](const Named& folder) { return fs::is_directory(path / folder.place); });
  Inventory inventory = is_model ? of_folder(path) : of_file(path);
  if (inventory.kind.use == FileKind::Use::whole || inventory.kind.use == FileKind::Use::unet)
    inventory.parametrization = Checkpoint(path).parametrization().sentence();
  return inventory;
}

}  // namespace eri
