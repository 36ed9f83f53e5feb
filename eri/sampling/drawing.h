#pragma once

#include <functional>
#include <map>
#include <string>

#include "eri/diffusion/conditioning.h"
#include "eri/diffusion/denoiser.h"
#include "eri/diffusion/samplers.h"
#include "eri/diffusion/sampling.h"
#include "eri/diffusion/sigma_schedules.h"
#include "eri/models/vae.h"
#include "flame/device/graph.h"
#include "flame/io/image.h"

namespace eri {

// Latents from noise with a model that is given as a function. On a GPU the estimate of pictures is captured as one
// graph for each shape, once it has run plainly.
class LatentSampler {
 public:
  // What the model predicts in x [N, C, h, w] (f32) at timesteps [N] (i64). It may read only what is on the device, and
  // what it reads may not move.
  using Predict = std::function<Tensor(const Tensor& x, const Tensor& timesteps, const Conditioning& condition)>;

  LatentSampler(Denoiser denoiser, Predict predict, flame::Device device, bool graphs = true)
      : denoiser_(std::move(denoiser)), predict_(std::move(predict)), device_(device), graphs_(graphs) {}

  // The noise levels of a way from noise to picture.
  std::vector<double> sigmas(const Sampling& how) const {
    return sampler_sigmas(how.sampler, how.scheduler, denoiser_, how.steps);
  }
  // Latents from unit noise [N, C, h, w], f32. The condition has a row for each picture, and for guidance as many more
  // for the negative prompts. `step_noise` is needed by samplers that add some.
  Tensor operator()(const Tensor& noise, const Conditioning& condition, const Sampling& how,
                    const StepNoise& step_noise = {});

  size_t graph_nodes() const;  // of the graphs captured so far

 private:
  // What one shape has of its own: where an estimate finds what it reads, where it leaves its result.
  struct Estimator {
    Tensor x, timesteps, factors, denoised;
    Conditioning condition;
    bool rescaled;
    flame::RepeatedWork work;
  };
  Estimator& estimator_for(const Tensor& noise, const Conditioning& condition, bool rescaled);
  void estimate(const Estimator& at) const;

  Denoiser denoiser_;
  Predict predict_;
  flame::Device device_;
  bool graphs_;
  std::map<std::vector<int64_t>, Estimator> estimators_;
};

// The pictures that latents [N, 4, h, w] stand for.
std::vector<flame::Image> pictures_of(const VAE& vae, const Tensor& latents);

}  // namespace eri
