#pragma once

#include <span>
#include <string_view>

#include "eri/diffusion/samplers.h"

namespace eri {

// Where a seed's random numbers come from: `philox`, the same on every device and drawn there, or `comfy`, those that
// ComfyUI draws on the CPU (start: torch.randn; independent step noise: torch.randn from seed + 1, as ComfyUI does
// where it runs on the CPU; Brownian step noise: torchsde's tree, wherever it runs).
enum class NoiseSource { philox, comfy };
NoiseSource parse_noise_source(std::string_view name);  // throws for another name

// The unit noise that a seed stands for, [1, C, h, w]; and that of several, one a row.
Tensor unit_noise(uint64_t seed, const flame::Shape& latents, flame::Device device,
                  NoiseSource source = NoiseSource::philox);
Tensor unit_noise(std::span<const uint64_t> seeds, const flame::Shape& latents, flame::Device device,
                  NoiseSource source);

// The noise that a sampler adds on its way over `sigmas`, for pictures begun from unit_noise(); none for a sampler that
// adds none. A picture's does not depend on those beside it.
StepNoise step_noise(std::string_view sampler, std::span<const uint64_t> seeds, const flame::Shape& latents,
                     const std::vector<double>& sigmas, flame::Device device, NoiseSource source);

}  // namespace eri
