#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "flame/io/safetensors.h"
#include "flame/nn/scope.h"

namespace eri {

// A single-file SDXL checkpoint. Opening maps the file and throws one sentence where it is something else: a LoRA,
// another family's model, a part in another layout.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& path);

  // The parts, their names without the prefix that they have in the file; throws if the part is not there. A part keeps
  // the file mapped.
  std::shared_ptr<const flame::WeightSource> unet() const;
  std::shared_ptr<const flame::WeightSource> vae() const;
  std::shared_ptr<const flame::WeightSource> clip_l() const;
  std::shared_ptr<const flame::WeightSource> clip_g() const;  // under the names of transformers, like clip_l

  // What the file says about its training, with marker tensors as ComfyUI reads them.
  bool v_prediction() const { return file_.contains("v_pred"); }
  bool zero_terminal_snr() const { return v_prediction() && file_.contains("ztsnr"); }

  const std::filesystem::path& path() const { return file_.path(); }
  const flame::SafetensorsFile& file() const { return file_; }

 private:
  flame::SafetensorsFile file_;
};

// Why a file with these tensors is no SDXL base model: a sentence for people; empty if nothing speaks against it.
std::string not_sdxl(const flame::SafetensorsFile& file);

}  // namespace eri
