#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "eri/diffusion/denoiser.h"

namespace eri {

// Noise levels from the first step's to 0, under ComfyUI's names: normal, karras, exponential, sgm_uniform, simple,
// ddim_uniform, beta. steps + 1 falling values; ddim_uniform may give one more, beta fewer where steps are many.
// Throws for an unknown name, listing the known ones.
std::vector<double> schedule_sigmas(std::string_view name, const Denoiser& denoiser, int steps);

// Those that a sampler walks: the schedule's, or for uni_pc one step's more without the last level above 0.
std::vector<double> sampler_sigmas(std::string_view sampler, std::string_view schedule, const Denoiser& denoiser,
                                   int steps);

const std::vector<std::string>& schedule_names();

}  // namespace eri
