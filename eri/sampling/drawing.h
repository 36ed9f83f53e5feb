#pragma once

#include <functional>
#include <map>

#include "eri/diffusion/conditioning.h"
#include "eri/diffusion/samplers.h"
#include "eri/models/vae.h"
#include "flame/device/graph.h"
#include "flame/io/image.h"

namespace eri {

// Latents from noise with a model that is given as a function: Euler over ComfyUI's `normal` schedule, with guidance.
// On a GPU the estimate of a picture is captured as one graph for each shape, once it has run plainly.
class LatentSampler {
 public:
  // What the model predicts in x [N, C, h, w] (f32) at timesteps [N] (i64). It may read only what is on the device, and
  // what it reads may not move.
  using Predict = std::function<Tensor(const Tensor& x, const Tensor& timesteps, const Conditioning& condition)>;

  LatentSampler(Denoiser denoiser, Predict predict, flame::Device device, bool graphs = true)
      : denoiser_(std::move(denoiser)), predict_(std::move(predict)), device_(device), graphs_(graphs) {}

  // Latents from unit noise [1, C, h, w], f32. The condition has one row, or two for guidance: the prompt's, then the
  // negative prompt's.
  Tensor operator()(const Tensor& noise, const Conditioning& condition, double cfg, int steps);

  size_t graph_nodes() const;  // of the graphs captured so far

 private:
  // What one shape has of its own: where an estimate finds what it reads, where it leaves its result.
  struct Estimator {
    Tensor x, timesteps, factors, denoised;
    Conditioning condition;
    flame::RepeatedWork work;
  };
  Estimator& estimator_for(const Tensor& noise, const Conditioning& condition);
  void estimate(const Estimator& at) const;

  Denoiser denoiser_;
  Predict predict_;
  flame::Device device_;
  bool graphs_;
  std::map<std::vector<int64_t>, Estimator> estimators_;
};

// The unit noise that a seed stands for.
Tensor unit_noise(uint64_t seed, const flame::Shape& latents, flame::Device device);

// The picture that latents [1, 4, h, w] stand for.
flame::Image picture_of(const VAE& vae, const Tensor& latents);

}  // namespace eri
