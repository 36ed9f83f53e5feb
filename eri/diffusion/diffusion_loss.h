#pragma once

#include <string>

#include "eri/diffusion/noise_schedule.h"

namespace eri {

// What a prediction's error costs, under sd-scripts' names and with its formulas.
struct LossOptions {
  std::string loss_type = "l2";        // l2, l1, huber, smooth_l1
  std::string huber_schedule = "snr";  // of delta: constant, exponential, snr
  double huber_c = 0.1, huber_scale = 1;
  double min_snr_gamma = 0;  // 0: no such weighting
  bool debiased_estimation_loss = false;
  bool scale_v_pred_loss_like_noise_pred = false;
  double v_pred_like_loss = 0;
};
// Throws naming each option that cannot be.
void require_valid(const LossOptions& options);

// The loss of a batch: the mean over each sample, weighted by its timestep, averaged over the samples. All that it
// reads is on the device. l2 costs d^2, l1 |d|, huber 2 c (sqrt(d^2 + c^2) - c) and smooth_l1 that over c, with
// c = delta at the timestep.
class DiffusionLoss {
 public:
  explicit DiffusionLoss(const LossOptions& options = {}, const NoiseSchedule& schedule = NoiseSchedule(),
                         Prediction prediction = Prediction::epsilon, flame::Device device = flame::Device::cpu());

  // prediction and target [N, C, h, w] f32, timesteps [N] -> f32 [].
  Tensor operator()(const Tensor& prediction, const Tensor& target, const Tensor& timesteps) const;

 private:
  enum class Kind { squared, absolute, huber };
  Kind kind_;
  Tensor weights_;        // [1000] f32; none where all weigh the same
  Tensor inverse_delta_;  // [1000] f32; for huber
};

// c at each timestep, by huber_schedule: huber_c; falling to it exponentially; or by how much of x_t is noise.
std::vector<double> huber_deltas(const LossOptions& options, const NoiseSchedule& schedule);
// What each timestep's loss is multiplied by.
std::vector<double> timestep_weights(const LossOptions& options, const NoiseSchedule& schedule, Prediction prediction);

}  // namespace eri
