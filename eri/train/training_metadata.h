#pragma once

#include "eri/data/image_dataset.h"
#include "eri/train/config.h"
#include "flame/io/safetensors.h"

namespace eri {

struct TrainingProgress {
  int64_t steps, epochs;
  double started_at, now;       // seconds since 1970
  uint64_t session;             // random: tells runs apart, not their saves
  std::string prediction_type;  // "epsilon" or "v"
  bool zero_terminal_snr, gradient_checkpointing;
};

// What sd-scripts notes of a training run in a LoRA file: ss_* as Python's str() would give them, and modelspec.*.
flame::Metadata training_metadata(const TrainConfig& config, const ImageDataset& dataset,
                                  const TrainingProgress& progress);

// The same of a LoRA with random factors, which nothing was trained for. Reads the whole of the base model's file.
flame::Metadata untrained_metadata(const Checkpoint& checkpoint, int64_t seed, double now);

}  // namespace eri
