#include "eri/train/base_fingerprint.h"

#include <algorithm>
#include <cstdio>

#include "eri/data/hash.h"

namespace eri {
namespace {

constexpr size_t pieces = 64, piece = 4096;  // of a part, each a page from the middle of a weight

std::string hash_of(const flame::WeightSource& weights) {
  std::vector<std::string> names = weights.names();
  // Files have counters, positions and marks beside them, and of CLIP-L a projection that SDXL has no use for.
  std::erase_if(names, [](const std::string& name) {
    return !name.ends_with(".weight") || name.ends_with("text_projection.weight");
  });
  std::sort(names.begin(), names.end());
  uint64_t hash = hash_bytes(flame::text(names.size()));
  for (size_t i = 0; i < std::min(pieces, names.size()); ++i) {
    const std::string& name = names[i * names.size() / std::min(pieces, names.size())];
    const flame::Tensor weight = weights.read(name);
    const size_t bytes = std::min(piece, weight.bytes());
    hash = hash_bytes(flame::text(name, ' ', flame::name(weight.dtype()), ' ', weight.bytes(), ' '), hash);
    hash = hash_bytes({reinterpret_cast<const char*>(weight.raw()) + (weight.bytes() - bytes) / 2, bytes}, hash);
  }
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

}  // namespace

std::string prediction_of(const Checkpoint& checkpoint) {
  const Parametrization& model = checkpoint.parametrization();
  return flame::text(model.v_prediction ? "v" : "epsilon", model.zero_terminal_snr ? ", zero terminal SNR" : "");
}

BaseFingerprint base_fingerprint(const Checkpoint& checkpoint) {
  return {{"UNet", hash_of(*checkpoint.unet())},
          {"VAE", hash_of(*checkpoint.vae())},
          {"CLIP-L", hash_of(*checkpoint.clip_l())},
          {"CLIP-G", hash_of(*checkpoint.clip_g())},
          {"prediction", prediction_of(checkpoint)}};
}

}  // namespace eri
