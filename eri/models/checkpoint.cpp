#include "eri/models/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "eri/models/weight_names.h"

namespace eri {

using namespace flame;
namespace fs = std::filesystem;

namespace {

// --- Where files have a part ---

enum class Part { unet, vae, clip_l, clip_g };

struct PartPlace {
  Part part;
  const char* prefix;  // of the part's tensors
  const char* sign;    // the part is there if names begin with prefix and sign
};

// Of those that a file has, the first is read: names with the part in them say more than those of a file of its own.
constexpr PartPlace places[] = {
    {Part::unet, "model.diffusion_model.", "input_blocks."},  // a single file; ComfyUI's UNets
    {Part::unet, "diffusion_model.", "input_blocks."},
    {Part::unet, "", "input_blocks."},
    {Part::unet, "unet.", "down_blocks."},
    {Part::unet, "", "down_blocks."},  // diffusers
    {Part::vae, "first_stage_model.", "decoder."},
    {Part::vae, "vae.", "decoder."},
    {Part::vae, "", "decoder."},
    {Part::clip_l, "conditioner.embedders.0.transformer.", "text_model."},
    {Part::clip_l, "text_encoders.clip_l.transformer.", "text_model."},  // as ComfyUI saves a checkpoint
    {Part::clip_l, "clip_l.transformer.", "text_model."},
    {Part::clip_l, "", "text_model."},
    {Part::clip_l, "", "encoder.layers."},
    {Part::clip_l, "", "transformer.resblocks."},
    {Part::clip_g, "conditioner.embedders.1.model.", "transformer.resblocks."},
    {Part::clip_g, "conditioner.embedders.1.transformer.", "text_model."},
    {Part::clip_g, "text_encoders.clip_g.transformer.", "text_model."},
    {Part::clip_g, "clip_g.transformer.", "text_model."},
    {Part::clip_g, "", "text_model."},
    {Part::clip_g, "", "transformer.resblocks."},
};

struct PartName {
  const char *what, *option;
  const char* folder;  // in a diffusers model
  const char* example;
};
constexpr PartName part_names[] = {{"UNet", "--unet", "unet", "unet.safetensors"},
                                   {"VAE", "--vae", "vae", "sdxl_vae.safetensors"},
                                   {"text encoder CLIP-L", "--clip_l", "text_encoder", "clip_l.safetensors"},
                                   {"text encoder CLIP-G", "--clip_g", "text_encoder_2", "clip_g.safetensors"}};
const PartName& name_of(Part part) { return part_names[static_cast<size_t>(part)]; }

const PartPlace* place_in(const WeightFiles& files, Part part) {
  for (const PartPlace& place : places) {
    if (place.part == part && files.has_below(std::string(place.prefix) + place.sign)) return &place;
  }
  return nullptr;
}

std::shared_ptr<const WeightSource> source(const std::optional<WeightFiles>& files, Part part,
                                           const ModelFiles& paths) {
  if (!files) {
    const auto& [what, option, folder, example] = name_of(part);
    fail(paths.model.empty() ? "the model" : paths.model.string(), " has no ", what, ": give one with ", option,
         ", such as ", example, ", or a base model that is complete");
  }
  return with_our_names(files->below(place_in(*files, part)->prefix));
}

// --- What is refused ---

// `path` as the base model: complete, or at least the UNet.
void check_base(const fs::path& path, const WeightFiles& files) {
  const FileKind kind = kind_of(files.entries());
  if (kind.use == FileKind::Use::whole || kind.use == FileKind::Use::unet) return;
  fail(path.string(), ": this is ", kind.what, ", not an SDXL base model; ",
       kind.remedy.empty() ? "give one, such as sd_xl_base_1.0.safetensors" : kind.remedy);
}

// `path` as what was given for a part.
void check_part(const fs::path& path, const WeightFiles& files, Part part) {
  const FileKind kind = kind_of(files.entries());
  const bool is_foreign = kind.use == FileKind::Use::none || kind.use == FileKind::Use::lora;
  if (!is_foreign && place_in(files, part)) return;
  const auto& [what, option, folder, example] = name_of(part);
  fail(path.string(), ": this is ", kind.what, ", not the ", what, " of an SDXL model; give one with ", option,
       ", such as ", example);
}

// One of several files, "...-00002-of-00003.safetensors", as if it were the whole.
void check_whole(const fs::path& path) {
  const std::string name = path.string(), tail = "-00000-of-00000.safetensors";
  if (name.size() < tail.size()) return;
  int part = 0, parts = 0, read = 0;
  std::sscanf(name.c_str() + name.size() - tail.size(), "-%5d-of-%5d.safetensors%n", &part, &parts, &read);
  if (read == static_cast<int>(tail.size()) && parts > 1)
    fail(path.string(), ": this is one of several shards of a model; give the folder that they are in");
}

// Text encoders that are not those of the UNet: the widths of what they say must be what it reads.
void check_widths(const WeightSource& unet, const WeightSource& clip_l, const WeightSource& clip_g) {
  constexpr int64_t size_ids = 6 * 256;
  const auto width = [](const WeightSource& weights, const std::string& name) {
    const auto shape = weights.find(name);
    return shape && shape->rank() == 2 ? (*shape)[1] : 0;
  };
  const std::string tokens = "text_model.embeddings.token_embedding.weight";
  const int64_t l = width(clip_l, tokens), g = width(clip_g, tokens);
  const int64_t pooled = width(unet, "label_emb.0.0.weight") - size_ids;
  if (l > 0 && g > 0 && pooled > 0 && g != pooled)
    fail(clip_g.describe(), ": this text encoder has a width of ", g, ", the UNet in ", unet.describe(),
         " reads one of ", pooled, " beside CLIP-L",
         l == pooled ? "; --clip_l and --clip_g are each other's" : "; give the UNet's own");
}

bool has_safetensors(const fs::path& folder) {
  const auto is_one = [](const fs::directory_entry& file) { return file.path().extension() == ".safetensors"; };
  return std::any_of(fs::directory_iterator(folder), fs::directory_iterator(), is_one);
}

// A folder without a UNet: what it is, if it says so.
[[noreturn]] void refuse_folder(const fs::path& folder) {
  std::ifstream index(folder / "model_index.json");
  const auto json = nlohmann::json::parse(index, nullptr, false);
  if (json.is_object() && json.contains("_class_name"))
    fail(folder.string(), ": its model_index.json says ", json["_class_name"].dump(),
         ", and there is no unet/, as an SDXL model has it; give an SDXL base model");
  fail(folder.string(),
       ": expected a diffusers model with unet/, vae/, text_encoder/ and text_encoder_2/; there is no ", "unet/");
}

// --- What a model says of its training ---

// Marker tensors, as ComfyUI reads them.
std::optional<Parametrization> from_markers(const WeightFiles& files) {
  if (!files.entries().contains("v_pred")) return std::nullopt;
  const auto reason = [&](const char* marker) {
    return text("marker tensor ", marker, " in ", files.path().filename().string());
  };
  const bool zero_terminal = files.entries().contains("ztsnr");
  return Parametrization{true, zero_terminal, reason("v_pred"), (zero_terminal ? "" : "no ") + reason("ztsnr")};
}

// scheduler/scheduler_config.json of a diffusers folder.
std::optional<Parametrization> from_scheduler(const fs::path& folder) {
  const fs::path path = folder / "scheduler" / "scheduler_config.json";
  std::ifstream file(path);
  if (!file) return std::nullopt;
  try {
    const auto config = nlohmann::json::parse(file);
    const std::string type = config.value("prediction_type", "epsilon");
    if (type != "epsilon" && type != "v_prediction")
      fail(path.string(), ": prediction_type is '", type, "', expected epsilon or v_prediction; give a model with one");
    return Parametrization{type == "v_prediction", config.value("rescale_betas_zero_snr", false),
                           "prediction_type in " + path.string(), "rescale_betas_zero_snr in " + path.string()};
  } catch (const nlohmann::json::exception& error) {
    fail(path.string(), ": ", error.what(), "; download it again");
  }
}

const char* option_text(bool value, const char* yes, const char* no) { return value ? yes : no; }

Parametrization chosen(const ModelFiles& files, const std::optional<Parametrization>& said) {
  constexpr const char* silent = "nothing in the checkpoint says otherwise";
  Parametrization result = said.value_or(Parametrization{false, false, silent, silent});
  if (files.v_parameterization) {
    result.v_prediction = *files.v_parameterization;
    result.v_reason = option_text(result.v_prediction, "--v_parameterization", "--v_parameterization false");
    if (!result.v_prediction && !files.zero_terminal_snr) result.zero_terminal_snr = false;
  }
  if (files.zero_terminal_snr) {
    result.zero_terminal_snr = *files.zero_terminal_snr;
    result.snr_reason = option_text(result.zero_terminal_snr, "--zero_terminal_snr", "--zero_terminal_snr false");
  }
  if (result.zero_terminal_snr && !result.v_prediction)
    fail("zero terminal SNR (", result.snr_reason, ") needs a model that predicts v, this one predicts epsilon (",
         result.v_reason, "): the last step is noise alone, which says nothing of the picture; give ",
         "--v_parameterization, or --zero_terminal_snr false");
  return result;
}

}  // namespace

Checkpoint::Checkpoint(const ModelFiles& files) : paths_(files) {
  const auto open = [this](const fs::path& path) {
    for (const auto& [known, opened] : opened_) {
      if (known == path) return opened;
    }
    check_whole(path);
    return opened_.emplace_back(path, WeightFiles(path)).second;
  };
  const bool is_folder = fs::is_directory(files.model) && fs::exists(files.model / "unet");
  std::optional<WeightFiles> single;
  if (!is_folder && !files.model.empty()) {
    if (fs::is_directory(files.model) && !has_safetensors(files.model)) refuse_folder(files.model);
    check_base(files.model, single.emplace(open(files.model)));
  }
  const auto find = [&](Part part, const fs::path& own) -> std::optional<WeightFiles> {
    const fs::path folder = files.model / name_of(part).folder;
    const fs::path path = !own.empty() ? own : is_folder && fs::exists(folder) ? folder : fs::path();
    if (path.empty()) return single && place_in(*single, part) ? single : std::nullopt;
    const WeightFiles opened = open(path);
    check_part(path, opened, part);
    return opened;
  };
  unet_ = find(Part::unet, files.unet);
  vae_ = find(Part::vae, files.vae);
  clip_l_ = find(Part::clip_l, files.clip_l);
  clip_g_ = find(Part::clip_g, files.clip_g);
  if (unet_ && clip_l_ && clip_g_) check_widths(*unet(), *clip_l(), *clip_g());

  std::optional<Parametrization> said = unet_ ? from_markers(*unet_) : std::nullopt;
  if (!said && is_folder && files.unet.empty()) said = from_scheduler(files.model);
  parametrization_ = chosen(files, said);
}

std::string Parametrization::sentence() const {
  std::string result = text("predicts ", v_prediction ? "v" : "epsilon", " (", v_reason, ")");
  if (v_prediction) result += text(zero_terminal_snr ? ", zero" : ", no zero", " terminal SNR (", snr_reason, ")");
  return result;
}

std::shared_ptr<const WeightSource> Checkpoint::unet() const { return source(unet_, Part::unet, paths_); }
std::shared_ptr<const WeightSource> Checkpoint::vae() const { return source(vae_, Part::vae, paths_); }
std::shared_ptr<const WeightSource> Checkpoint::clip_l() const { return source(clip_l_, Part::clip_l, paths_); }
std::shared_ptr<const WeightSource> Checkpoint::clip_g() const { return source(clip_g_, Part::clip_g, paths_); }

size_t Checkpoint::bytes() const {
  size_t sum = 0;
  for (const auto& [path, files] : opened_) sum += files.bytes();
  return sum;
}

void Checkpoint::read_ahead(std::stop_token stop) const {
  for (const auto& [path, files] : opened_) files.read_ahead(stop);
}

}  // namespace eri
