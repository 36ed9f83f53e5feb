#include "eri/models/checkpoint.h"

#include <algorithm>

#include "eri/models/open_clip.h"

namespace eri {

using namespace flame;

namespace {

constexpr const char* kUNet = "model.diffusion_model.";
constexpr const char* kVae = "first_stage_model.";
constexpr const char* kClipL = "conditioner.embedders.0.transformer.";
constexpr const char* kClipG = "conditioner.embedders.1.model.";

bool has_below(const SafetensorsFile& file, const std::string& prefix) {
  const auto next = file.entries().lower_bound(prefix);
  return next != file.entries().end() && next->first.starts_with(prefix);
}

bool has_with(const SafetensorsFile& file, std::string_view part) {
  return std::any_of(file.entries().begin(), file.entries().end(),
                     [part](const auto& entry) { return entry.first.find(part) != std::string::npos; });
}

// The tensors below a prefix, by the rest of their names.
class Part : public WeightSource {
 public:
  Part(SafetensorsFile file, std::string prefix) : file_(std::move(file)), prefix_(std::move(prefix)) {}

  std::string describe() const override { return file_.path().string(); }
  std::vector<std::string> names() const override {
    std::vector<std::string> result;
    const auto& entries = file_.entries();
    for (auto it = entries.lower_bound(prefix_); it != entries.end() && it->first.starts_with(prefix_); ++it)
      result.push_back(it->first.substr(prefix_.size()));
    return result;
  }
  std::optional<Shape> find(const std::string& name) const override {
    const auto entry = file_.entries().find(prefix_ + name);
    return entry == file_.entries().end() ? std::nullopt : std::optional(entry->second.shape);
  }
  Tensor read(const std::string& name) const override { return file_.tensor(prefix_ + name); }
  std::string full_name(const std::string& name) const override { return prefix_ + name; }

 private:
  SafetensorsFile file_;
  std::string prefix_;
};

std::shared_ptr<const WeightSource> part(const SafetensorsFile& file, const char* prefix, const char* what) {
  if (!has_below(file, prefix))
    fail("checkpoint ", file.path().string(), " has no ", what, ": no tensor's name begins with ", prefix);
  return std::make_shared<Part>(file, prefix);
}

}  // namespace

std::string not_sdxl(const SafetensorsFile& file) {
  struct Sign {
    bool at_start;
    const char *part, *means;
  };
  constexpr Sign signs[] = {
      {false, "lora_down.", "this is a LoRA, not a base model"},
      {false, "lora_A.", "this is a LoRA, not a base model"},
      {false, "lora.down.", "this is a LoRA, not a base model"},
      {false, ".hada_w1_a", "this is a LyCORIS adapter, not a base model"},
      {false, ".lokr_w", "this is a LyCORIS adapter, not a base model"},
      {true, "control_model.", "this is a ControlNet, not a base model"},
      {true, "cond_stage_model.", "this is a Stable Diffusion 1 or 2 model, not SDXL"},
      {false, "double_blocks.", "this is a Flux model, not SDXL"},
      {false, "joint_blocks.", "this is a Stable Diffusion 3 model, not SDXL"},
      {true, "conditioner.embedders.0.model.", "this is the SDXL refiner, not the base model"},
      {true, "down_blocks.", "this is a diffusers UNet; a single-file checkpoint is needed"},
      {true, "encoder.down_blocks.", "this is a diffusers VAE; a single-file checkpoint is needed"},
      {true, "text_model.", "this is a text encoder of a diffusers folder; a single-file checkpoint is needed"},
      {true, "edm_", "this SDXL model was trained with EDM's parametrisation, which is not supported"},
  };
  for (const auto& [at_start, part, means] : signs) {
    if (at_start ? has_below(file, part) : has_with(file, part)) return means;
  }
  const auto conv_in = file.entries().find(std::string(kUNet) + "input_blocks.0.0.weight");
  if (conv_in != file.entries().end() && conv_in->second.shape.rank() == 4 && conv_in->second.shape[1] != 4)
    return text("this UNet takes ", conv_in->second.shape[1], " channels, a base model 4 (is it for inpainting?)");
  return "";
}

Checkpoint::Checkpoint(const std::filesystem::path& path) : file_(path) {
  if (const std::string complaint = not_sdxl(file_); !complaint.empty()) fail(path.string(), ": ", complaint);
}

std::shared_ptr<const WeightSource> Checkpoint::unet() const { return part(file_, kUNet, "UNet"); }
std::shared_ptr<const WeightSource> Checkpoint::vae() const { return part(file_, kVae, "VAE"); }
std::shared_ptr<const WeightSource> Checkpoint::clip_l() const { return part(file_, kClipL, "text encoder CLIP-L"); }
std::shared_ptr<const WeightSource> Checkpoint::clip_g() const {
  return std::make_shared<OpenClipSource>(part(file_, kClipG, "text encoder CLIP-G"));
}

}  // namespace eri
