#pragma once

#include "eri/data/image_dataset.h"
#include "eri/train/config.h"
#include "flame/io/safetensors.h"

namespace eri {

// What of the pictures a LoRA file's metadata has: how many, in which folders, how captions are made of which tags, how
// pictures are cut. Takes at most 0.4 MB of the file's header, which ComfyUI shows below 1 MiB: of more tags than fit
// into 256 KiB the rarest are left out, and more than 100 folders are counted as one.
flame::Metadata dataset_metadata(const ImageDataset& dataset, const TrainConfig& config);

}  // namespace eri
