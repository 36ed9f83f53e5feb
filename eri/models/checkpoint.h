#pragma once

#include <optional>

#include "eri/models/file_kind.h"

namespace eri {

// The files that a model is in: a single file or a diffusers folder with all parts, and parts that replace its own or
// that it lacks. A part may be a file of that part alone, or one that has it among others, or a folder with either.
struct ModelFiles {
  std::filesystem::path model, unet, vae, clip_l, clip_g;
  std::optional<bool> v_parameterization = {}, zero_terminal_snr = {};  // win over what the checkpoint says
};

// What a UNet predicts, and on which noise schedule.
struct Parametrization {
  bool v_prediction = false, zero_terminal_snr = false;
  std::string v_reason, snr_reason;  // who says so

  // "predicts v (marker tensor v_pred in x.safetensors), zero terminal SNR (--zero_terminal_snr)"
  std::string sentence() const;
};

// An SDXL model in any layout that people have it in, under one layout's names. Opening maps the files and throws one
// sentence where they are something else: a LoRA, another family's model, a part where all of them are needed.
class Checkpoint {
 public:
  explicit Checkpoint(const ModelFiles& files);
  explicit Checkpoint(const std::filesystem::path& model) : Checkpoint(ModelFiles{model, {}, {}, {}, {}}) {}

  // The parts, UNet and VAE under the names of a single file, text encoders under transformers'; throws, saying how to
  // give it, if the part is not there. A part keeps its files mapped.
  std::shared_ptr<const flame::WeightSource> unet() const;
  std::shared_ptr<const flame::WeightSource> vae() const;
  std::shared_ptr<const flame::WeightSource> clip_l() const;
  std::shared_ptr<const flame::WeightSource> clip_g() const;

  const Parametrization& parametrization() const { return parametrization_; }
  const ModelFiles& paths() const { return paths_; }
  size_t bytes() const;                         // of all files
  void read_ahead(std::stop_token stop) const;  // see flame::MappedFile

 private:
  ModelFiles paths_;
  std::vector<std::pair<std::filesystem::path, WeightFiles>> opened_;
  std::optional<WeightFiles> unet_, vae_, clip_l_, clip_g_;
  Parametrization parametrization_;
};

}  // namespace eri
