#include "eri/diffusion/diffusion_loss.h"

#include <algorithm>
#include <cmath>

#include "flame/core/error.h"
#include "flame/ops/loss.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace eri {
namespace {

using flame::fail;

void expect_one_of(const char* option, const std::string& value, std::initializer_list<const char*> known) {
  std::string list;
  for (const char* name : known) {
    if (value == name) return;
    list += (list.empty() ? "" : ", ") + std::string(name);
  }
  fail(option, ": expected one of ", list, ", got '", value, "'");
}

bool is_huber(const LossOptions& options) { return options.loss_type == "huber" || options.loss_type == "smooth_l1"; }

bool weighs(const LossOptions& options) {
  return options.min_snr_gamma > 0 || options.debiased_estimation_loss || options.scale_v_pred_loss_like_noise_pred ||
         options.v_pred_like_loss > 0;
}

// One value a sample as [N, 1, 1, 1].
Tensor column(const Tensor& table, const Tensor& timesteps) {
  return at_timesteps(table, timesteps).view({timesteps.numel(), 1, 1, 1});
}

}  // namespace

void require_valid(const LossOptions& options) {
  expect_one_of("loss_type", options.loss_type, {"l2", "l1", "huber", "smooth_l1"});
  expect_one_of("huber_schedule", options.huber_schedule, {"constant", "exponential", "snr"});
  const auto positive = [](const char* option, double value) {
    if (!(value > 0) || !std::isfinite(value)) fail(option, ": expected above 0, got ", value);
  };
  const auto not_negative = [](const char* option, double value) {
    if (!(value >= 0) || !std::isfinite(value)) fail(option, ": expected 0 or more, got ", value);
  };
  positive("huber_c", options.huber_c);
  positive("huber_scale", options.huber_scale);
  not_negative("min_snr_gamma", options.min_snr_gamma);
  not_negative("v_pred_like_loss", options.v_pred_like_loss);
}

std::vector<double> huber_deltas(const LossOptions& options, const NoiseSchedule& schedule) {
  const std::vector<double> alphas = schedule.alphas_cumprod();
  std::vector<double> deltas;
  for (size_t t = 0; t < alphas.size(); ++t) {
    if (options.huber_schedule == "constant") {
      deltas.push_back(options.huber_c * options.huber_scale);
    } else if (options.huber_schedule == "exponential") {
      const double part = static_cast<double>(t) / static_cast<double>(alphas.size());
      deltas.push_back(std::pow(options.huber_c, part) * options.huber_scale);
    } else {  // without huber_scale, as there
      const double sigma = std::sqrt((1 - alphas[t]) / alphas[t]);
      deltas.push_back((1 - options.huber_c) / ((1 + sigma) * (1 + sigma)) + options.huber_c);
    }
  }
  return deltas;
}

std::vector<double> timestep_weights(const LossOptions& options, const NoiseSchedule& schedule, Prediction prediction) {
  std::vector<double> weights(NoiseSchedule::steps, 1);
  const auto multiply = [&](const std::vector<double>& factors) {
    for (size_t t = 0; t < weights.size(); ++t) weights[t] *= factors[t];
  };
  if (options.min_snr_gamma > 0) multiply(min_snr_weights(schedule, options.min_snr_gamma, prediction));
  if (options.scale_v_pred_loss_like_noise_pred) multiply(v_like_noise_weights(schedule));
  if (options.v_pred_like_loss > 0) {
    std::vector<double> factors = v_like_noise_weights(schedule);
    for (double& factor : factors) factor = 1 + options.v_pred_like_loss / factor;
    multiply(factors);
  }
  if (options.debiased_estimation_loss) multiply(debiased_weights(schedule, prediction));
  return weights;
}

DiffusionLoss::DiffusionLoss(const LossOptions& options, const NoiseSchedule& schedule, Prediction prediction,
                             flame::Device device)
    : kind_(is_huber(options)           ? Kind::huber
            : options.loss_type == "l1" ? Kind::absolute
                                        : Kind::squared) {
  require_valid(options);
  if (options.scale_v_pred_loss_like_noise_pred && prediction != Prediction::v)
    fail("scale_v_pred_loss_like_noise_pred: is for models that predict v; this one predicts the noise");
  if (options.v_pred_like_loss > 0 && prediction == Prediction::v)
    fail("v_pred_like_loss: is for models that predict the noise; this one predicts v");
  const flame::PurposeScope purpose(flame::Purpose::data);
  std::vector<double> weights = timestep_weights(options, schedule, prediction);
  if (kind_ == Kind::huber) {
    std::vector<double> deltas = huber_deltas(options, schedule);
    for (size_t t = 0; t < deltas.size(); ++t) {
      weights[t] *= 2 * deltas[t] * (options.loss_type == "huber" ? deltas[t] : 1);
      deltas[t] = 1 / deltas[t];
    }
    inverse_delta_ = timestep_table(deltas, device);
  }
  if (weighs(options) || kind_ == Kind::huber) weights_ = timestep_table(weights, device);
}

// Huber's with e = d / c, sqrt(e^2 + 1) - 1 = e^2 / (sqrt(e^2 + 1) + 1): small errors keep their digits.
Tensor DiffusionLoss::operator()(const Tensor& prediction, const Tensor& target, const Tensor& timesteps) const {
  if (kind_ == Kind::squared) {
    if (!weights_.defined()) return flame::mse_loss(prediction, target);
    return flame::weighted_mse_loss(prediction, target, at_timesteps(weights_, timesteps));
  }
  Tensor error = prediction - target;
  if (kind_ == Kind::absolute) {
    error = flame::abs(error);
  } else {
    error = error * column(inverse_delta_, timesteps);
    const Tensor square = error * error;
    error = square / (flame::sqrt(square + 1) + 1);
  }
  return flame::mean(weights_.defined() ? error * column(weights_, timesteps) : error);
}

}  // namespace eri
