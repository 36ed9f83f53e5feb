#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "flame/core/tensor.h"

namespace eri {

using flame::Tensor;

// x0's guided estimate at (x, sigma).
using Estimate = std::function<Tensor(const Tensor& x, double sigma)>;
// Unit noise for the way down from one noise level to another, shaped like x; asked for by samplers that add some.
using StepNoise = std::function<Tensor(double sigma, double next)>;
// Called after step k with x and the estimate at the step's beginning.
using OnStep = std::function<void(int step, const Tensor& x, const Tensor& denoised)>;

// From x at sigmas.front() to the picture at 0, under ComfyUI's names. Throws for an unknown name, listing the known
// ones.
//   euler, heun              Karras et al., arXiv:2206.00364, without churn
//   ddim                     what ComfyUI calls so: euler, which it is from pure noise
//   euler_ancestral          a step too far down, and back up with noise
//   dpmpp_2m, dpmpp_2m_sde   DPM-Solver++, arXiv:2211.01095: two steps' estimates; the latter's midpoint form, with
//   noise dpmpp_sde                two estimates a step, and noise twice: over its first half and over all of it
//   uni_pc, uni_pc_bh2       UniPC, arXiv:2302.04867, of order 3 and its two B(h)
//   lcm                      the estimate, made noisy again: latent consistency models, arXiv:2310.04378
Tensor run_sampler(std::string_view name, const Tensor& x, const std::vector<double>& sigmas, const Estimate& estimate,
                   const StepNoise& noise = {}, const OnStep& on_step = {});

// The noise levels at which run_sampler() asks for estimates, in this order.
std::vector<double> estimated_sigmas(std::string_view name, const std::vector<double>& sigmas);

// What noise a sampler asks for: none, each independent of the others, or increments of one Brownian motion.
enum class NoiseKind { none, independent, brownian };
NoiseKind noise_kind(std::string_view sampler);

const std::vector<std::string>& sampler_names();

}  // namespace eri
