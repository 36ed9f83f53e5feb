#pragma once

#include <vector>

#include "eri/diffusion/noise_schedule.h"
#include "flame/core/generator.h"

namespace eri {

// The noise that a step trains on, under sd-scripts' names and with its formulas.
struct NoiseOptions {
  double noise_offset = 0;  // noise of one value a channel, added this strongly
  bool noise_offset_random_strength = false;
  double adaptive_noise_scale = 0;        // more of it, by this much of the channel's mean's size
  int64_t multires_noise_iterations = 0;  // levels of coarser noise, each added discount times as strongly
  double multires_noise_discount = 0.3;
  double ip_noise_gamma = 0;  // noise on what the network sees but is not asked for
  bool ip_noise_gamma_random_strength = false;
  int64_t min_timestep = 0, max_timestep = NoiseSchedule::steps;  // drawn from [min, max)
};
void require_valid(const NoiseOptions& options);  // throws naming each option that cannot be

// What is drawn for a batch.
struct TrainingNoise {
  Tensor noise;      // [N, C, h, w], of which the target is made
  Tensor added;      // that and the perturbation: what is added to the latents
  Tensor timesteps;  // [N] i64
};

// noise + strength * offset, with strength + adaptive * |mean of the channel| where `adaptive` is not 0; latents and
// noise [N, C, h, w], offset [N, C, 1, 1], strength [1]: f32.
Tensor with_offset(const Tensor& noise, const Tensor& latents, const Tensor& offset, const Tensor& strength,
                   double adaptive);

// Noise of several resolutions ("pyramid noise"). Each level is stretched to the latents' size; how coarse the levels
// are is random and changes from step to step, which a captured step reads from matrices that set() fills.
class MultiresNoise {
 public:
  MultiresNoise() = default;
  MultiresNoise(const NoiseOptions& options, const flame::Shape& latents, flame::Device device);

  // Level k >= 1 is ratios[k - 1]^k times as coarse as the latents; 2 to 4 each. [iterations - 1].
  void set(const std::vector<double>& ratios);
  static std::vector<double> ratios(const NoiseOptions& options, uint64_t seed, uint32_t step, uint32_t first_sample);

  // What is drawn for the levels, the latents' size first: of each, its upper left corner counts.
  std::vector<flame::Shape> shapes() const;
  // (noise + levels) / their standard deviation.
  Tensor operator()(const Tensor& noise, const std::vector<Tensor>& levels) const;

 private:
  struct Level {
    Tensor rows, columns;  // [h, at most h / 2^k], [at most w / 2^k, w]: what each pixel takes of the coarser ones
  };
  flame::Shape latents_;
  double discount_ = 0;
  std::vector<Level> levels_;
};

// Draws all of it, from calls of the generator in a fixed order: noise and timesteps first, so that options do not
// change them. `multires` is set for this step, if there is such noise.
TrainingNoise draw_noise(const NoiseOptions& options, const Tensor& latents, const MultiresNoise& multires,
                         flame::Generator& generator, int64_t first_sample);

}  // namespace eri
