#include "eri/lora/lora.h"
#include "eri/models/unet.h"

namespace eri {

void UNet::save_lora(const std::filesystem::path& path) const {
  LoRA::attached(lora_targets(*this, LoraPart::unet, LoraPreset::full)).save(path);
}

}  // namespace eri
