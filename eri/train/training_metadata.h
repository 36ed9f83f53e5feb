#pragma once

#include "eri/data/image_dataset.h"
#include "eri/train/config.h"
#include "flame/io/safetensors.h"

namespace eri {

struct TrainingProgress {
  int64_t steps, epochs;
  double started_at, now;       // seconds since 1970
  std::string prediction_type;  // "epsilon" or "v"
};

// What sd-scripts notes of a training run in a LoRA file: ss_* as Python's str() would give them, and modelspec.*.
flame::Metadata training_metadata(const TrainConfig& config, const ImageDataset& dataset,
                                  const TrainingProgress& progress);

}  // namespace eri
