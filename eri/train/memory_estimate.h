#pragma once

#include "eri/models/fused_unet.h"
#include "eri/models/geometry.h"
#include "eri/train/optimizers.h"

namespace eri {

// A training step of a fused UNet in f16 or bf16 on a GPU, with a LoRA of one rank in f32 on every layer of its
// transformers: it knows nothing of a LoRA of convolutions, which keep their inputs, of one on fewer layers, or of one
// in text encoders, which then run in the step.
struct MemoryQuestion {
  Geometry::UNet unet;
  MemoryPolicy policy = MemoryPolicy::lean;
  int64_t rank = 16, samples = 1;
  int64_t width = 1024, height = 1024;  // of the pictures; multiples of 32
  int64_t text_tokens = 77;
  OptimizerChoice optimizer = flame::AdamWOptions();
  bool deterministic = false;  // attention backward in its repeatable form
};

// Bytes by purpose while most is held. The driver's own memory and the allocator's rounding come on top.
struct MemoryEstimate {
  int64_t weights = 0, adapters = 0, optimizer = 0, gradients = 0;
  int64_t kept = 0;     // activations, from the forward pass to the backward pass
  int64_t working = 0;  // what lives for a block or less, the text's keys and values, the libraries' workspaces
  int64_t total() const { return weights + adapters + optimizer + gradients + kept + working; }
};
MemoryEstimate estimate_memory(const MemoryQuestion& question);

}  // namespace eri
