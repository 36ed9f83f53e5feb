#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "eri/sampling/picture_noise.h"
#include "eri/sampling/sample_request.h"

namespace eri {

// A LoRA that a picture was drawn with.
struct UsedLora {
  std::string name;  // of its file, without the ending
  double strength = 1;
  std::string hash;  // as A1111 has it: 12 digits of the SHA-256 of its tensors
};
UsedLora used_lora(const std::filesystem::path& file, double strength);

// How a picture was made, as A1111 writes it into a PNG's `parameters`, which ComfyUI and others read too. `model`: the
// checkpoint's name without its ending.
std::string parameters_text(const SampleRequest& request, const std::string& model, const std::vector<UsedLora>& loras,
                            NoiseSource noise);

}  // namespace eri
