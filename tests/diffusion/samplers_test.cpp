// Noise levels and samplers against ComfyUI's, which tests/reference/samplers.py ran in float64.
#include "eri/diffusion/samplers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "eri/diffusion/sigma_schedules.h"
#include "flame/io/safetensors.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "tests/distance.h"
#include "tests/io/files.h"

namespace eri {
namespace {

using flame::DType;
using flame::testing::error_of;

const std::vector<std::string> schedules = {"normal", "karras",       "exponential", "sgm_uniform",
                                            "simple", "ddim_uniform", "beta"};
const std::vector<int> steps_of_schedules = {1,  2,  3,  4,  5,  7,  8,  10, 12,  15,  20,  24,
                                             25, 28, 30, 35, 40, 50, 64, 75, 100, 150, 333, 1000};
const std::vector<int> steps_of_samplers = {2, 3, 8, 15};

flame::SafetensorsFile expected() { return flame::SafetensorsFile("tests/data/samplers.safetensors"); }

Denoiser denoiser_of(const std::string& model) {
  return Denoiser(NoiseSchedule(model == "v_ztsnr"), model == "epsilon" ? Prediction::epsilon : Prediction::v);
}

// The runs of values in a list, each of which ends in `end`.
template <class T>
std::vector<std::vector<T>> runs(const std::vector<T>& values, T end) {
  std::vector<std::vector<T>> all(1);
  for (const T& value : values) {
    all.back().push_back(value);
    if (value == end) all.emplace_back();
  }
  all.pop_back();
  return all;
}

void expect_near(const std::vector<double>& sigmas, const std::vector<float>& wanted, const std::string& which) {
  ASSERT_EQ(sigmas.size(), wanted.size()) << which;
  for (size_t i = 0; i < sigmas.size(); ++i)
    EXPECT_NEAR(sigmas[i], wanted[i], 1e-6 * wanted[i]) << which << ", level " << i;
}

TEST(Schedules, AreComfyUIs) {
  const flame::SafetensorsFile file = expected();
  EXPECT_EQ(schedule_names(), schedules);
  for (const std::string model : {"epsilon", "v_ztsnr"}) {
    const Denoiser denoiser = denoiser_of(model);
    for (const std::string& schedule : schedules) {
      const auto levels = runs(file.tensor("sigmas." + model + "." + schedule).to_host<float>(), 0.0f);
      const auto timesteps = runs(file.tensor("timesteps." + model + "." + schedule).to_host<int32_t>(), -1);
      const auto uni_pc = runs(file.tensor("sigmas_uni_pc." + model + "." + schedule).to_host<float>(), 0.0f);
      for (size_t i = 0; i < steps_of_schedules.size(); ++i) {
        const int steps = steps_of_schedules[i];
        const std::string which = model + " " + schedule + " " + std::to_string(steps);
        const std::vector<double> sigmas = schedule_sigmas(schedule, denoiser, steps);
        if (i < levels.size()) expect_near(sigmas, levels[i], which);
        if (i < uni_pc.size()) expect_near(sampler_sigmas("uni_pc", schedule, denoiser, steps), uni_pc[i], which);
        std::vector<int32_t> times;
        for (size_t k = 0; k + 1 < sigmas.size(); ++k)
          times.push_back(static_cast<int32_t>(denoiser.timestep(sigmas[k])));
        times.push_back(-1);
        // Every second of these 75 lies exactly between two timesteps: the last bit of a logarithm decides.
        if (schedule == "normal" && steps == 75) {
          for (size_t k = 0; k < times.size(); ++k) EXPECT_NEAR(times[k], timesteps.at(i)[k], k % 2);
          continue;
        }
        EXPECT_EQ(times, timesteps.at(i)) << which;
      }
    }
  }
}

// E[x0 | x] for x0 = +1 or -0.5 in all places of a row, each with a deviation of 0.4.
std::vector<double> mean_of_data(const std::vector<double>& x, double sigma, size_t rows) {
  const double variance = 0.16 + sigma * sigma, centres[] = {1, -0.5}, logs[] = {std::log(0.3), std::log(0.7)};
  const size_t width = x.size() / rows;
  std::vector<double> means(x.size());
  for (size_t row = 0; row < rows; ++row) {
    double weight[2];
    for (int k : {0, 1}) {
      weight[k] = logs[k];
      for (size_t i = row * width; i < (row + 1) * width; ++i)
        weight[k] -= (x[i] - centres[k]) * (x[i] - centres[k]) / (2 * variance);
    }
    const double first = 1 / (1 + std::exp(weight[1] - weight[0]));
    for (size_t i = row * width; i < (row + 1) * width; ++i)
      means[i] = first * (centres[0] + (x[i] - centres[0]) * 0.16 / variance) +
                 (1 - first) * (centres[1] + (x[i] - centres[1]) * 0.16 / variance);
  }
  return means;
}

// What the model predicts, in double.
Tensor predict(const Denoiser& denoiser, bool v, const Tensor& input, int64_t timestep) {
  const double sigma = denoiser.sigmas()[timestep], root = std::sqrt(sigma * sigma + 1);
  const std::vector<float> given = input.to_host<float>();
  std::vector<double> x(given.begin(), given.end());
  for (double& value : x) value *= root;
  const std::vector<double> x0 = mean_of_data(x, sigma, static_cast<size_t>(input.dim(0)));
  std::vector<float> prediction;
  for (size_t i = 0; i < x.size(); ++i) {
    const double epsilon = (x[i] - x0[i]) / sigma;
    prediction.push_back(static_cast<float>(v ? (epsilon - sigma * x0[i]) / root : epsilon));
  }
  return Tensor::from(prediction, input.shape());
}

Tensor sample(const std::string& model, const std::string& sampler, const std::string& schedule, int steps) {
  const flame::SafetensorsFile file = expected();
  const Denoiser denoiser = denoiser_of(model);
  const std::vector<double> sigmas = sampler_sigmas(sampler, schedule, denoiser, steps);
  const auto estimate = [&](const Tensor& x, double sigma) {
    const Tensor input = denoiser.scaled_input(x, sigma);
    return denoiser.denoised(x, predict(denoiser, model != "epsilon", input, denoiser.timestep(sigma)), sigma);
  };
  const Tensor noise = file.tensor("noise"), noises = file.tensor("step_noise");
  int64_t next = 0;
  const StepNoise step_noise = [&](double, double) { return noises.rows(next++, 1).view(noise.shape()); };
  return run_sampler(sampler, denoiser.start(noise, sigmas.front()), sigmas, estimate, step_noise);
}

// float32 against float64: what a step loses is a rounding of x, which is sigma large.
TEST(Samplers, AreComfyUIsOnEverySchedule) {
  const flame::SafetensorsFile file = expected();
  for (const std::string model : {"epsilon", "v", "v_ztsnr"}) {
    for (const std::string& sampler : sampler_names()) {
      const Tensor wanted = file.tensor("x." + model + "." + sampler);
      double farthest = 0;
      for (size_t i = 0; i < schedules.size(); ++i) {
        for (size_t k = 0; k < steps_of_samplers.size(); ++k) {
          const Tensor x = sample(model, sampler, schedules[i], steps_of_samplers[k]);
          const auto row = static_cast<int64_t>(i * steps_of_samplers.size() + k);
          const Tensor all = wanted.view(flame::Shape{static_cast<int64_t>(28), x.numel()});
          const double error = distance(x, all.rows(row, 1).view(x.shape()));
          EXPECT_LT(error, 2e-5) << model << " " << sampler << " " << schedules[i] << " " << steps_of_samplers[k];
          farthest = std::max(farthest, error);
        }
      }
      std::cout << model << " " << sampler << ": " << farthest << "\n";
    }
  }
}

TEST(Samplers, SayWhereTheyEstimate) {
  const std::vector<double> sigmas = {4, 1, 0};
  EXPECT_EQ(estimated_sigmas("euler", sigmas), (std::vector<double>{4, 1}));
  EXPECT_EQ(estimated_sigmas("heun", sigmas), (std::vector<double>{4, 1, 1}));
  EXPECT_EQ(estimated_sigmas("dpmpp_sde", sigmas), (std::vector<double>{4, 2, 1}));
  EXPECT_EQ(estimated_sigmas("uni_pc", sigmas), (std::vector<double>{4, 1}));
}

TEST(Samplers, NameWhatThereIs) {
  const std::string message = error_of([] { run_sampler("eulerr", {}, {1, 0}, {}); });
  for (const char* part : {"'eulerr'", "euler_ancestral", "uni_pc_bh2"}) EXPECT_NE(message.find(part), message.npos);
  EXPECT_NE(error_of([] { schedule_sigmas("linear", denoiser_of("v"), 3); }).find("ddim_uniform"), message.npos);
}

}  // namespace
}  // namespace eri
