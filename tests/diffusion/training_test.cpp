// sd-scripts' noise and losses against torch's float64, from tests/reference/training_noise.py.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "eri/diffusion/diffusion_loss.h"
#include "eri/diffusion/training_noise.h"
#include "flame/autograd/tape.h"
#include "flame/io/safetensors.h"
#include "flame/ops/pointwise.h"
#include "tests/distance.h"
#include "tests/io/files.h"

namespace eri {
namespace {

using flame::Device;
using flame::distance;
using flame::testing::error_of;
using nlohmann::json;

flame::SafetensorsFile expected() { return flame::SafetensorsFile("tests/data/training_noise.safetensors"); }

LossOptions options_of(const json& c) {
  return {.loss_type = c.value("loss_type", "l2"),
          .huber_schedule = c.value("huber_schedule", "snr"),
          .huber_c = c.value("huber_c", 0.1),
          .huber_scale = c.value("huber_scale", 1.0),
          .min_snr_gamma = c.value("min_snr_gamma", 0.0),
          .debiased_estimation_loss = c.value("debiased_estimation_loss", false),
          .scale_v_pred_loss_like_noise_pred = c.value("scale_v_pred_loss_like_noise_pred", false),
          .v_pred_like_loss = c.value("v_pred_like_loss", 0.0)};
}

TEST(DiffusionLoss, IsSdScripts) {
  const flame::SafetensorsFile file = expected();
  const Tensor timesteps = file.tensor("timesteps"), target = file.tensor("target");
  const json cases = json::parse(file.metadata().at("cases"));
  for (size_t i = 0; i < cases.size(); ++i) {
    const Prediction prediction = cases[i].value("prediction", "") == "v" ? Prediction::v : Prediction::epsilon;
    const DiffusionLoss cost(options_of(cases[i]), NoiseSchedule(cases[i].value("ztsnr", false)), prediction);
    flame::Tape tape;
    const Tensor guess = file.tensor("prediction").clone().requires_grad();
    const Tensor loss = cost(guess, target, timesteps);
    const double wanted = file.tensor("loss." + std::to_string(i)).item();
    EXPECT_NEAR(loss.item(), wanted, 2e-6 * wanted) << cases[i];
    EXPECT_LT(distance(loss.backward()[guess], file.tensor("gradient." + std::to_string(i))), 2e-6) << cases[i];
  }
}

TEST(DiffusionLoss, SaysWhatCannotBe) {
  const auto message = [](const LossOptions& options, Prediction prediction = Prediction::epsilon) {
    return error_of([&] { DiffusionLoss(options, NoiseSchedule(), prediction); });
  };
  EXPECT_NE(message({.loss_type = "mse"}).find("loss_type: expected one of l2, l1, huber, smooth_l1"),
            std::string::npos);
  EXPECT_NE(message({.huber_schedule = "linear"}).find("constant, exponential, snr"), std::string::npos);
  EXPECT_NE(message({.huber_c = 0}).find("huber_c"), std::string::npos);
  EXPECT_NE(message({.min_snr_gamma = -1}).find("min_snr_gamma"), std::string::npos);
  EXPECT_NE(message({.scale_v_pred_loss_like_noise_pred = true}).find("models that predict v"), std::string::npos);
  EXPECT_NE(message({.v_pred_like_loss = 1}, Prediction::v).find("predict the noise"), std::string::npos);
}

TEST(TrainingNoise, OffsetIsSdScripts) {
  const flame::SafetensorsFile file = expected();
  const Tensor strength = Tensor::full({1}, 0.1);
  for (const auto& [name, adaptive] : {std::pair{"plain", 0.0}, {"more", 0.3}, {"less", -0.3}}) {
    const Tensor noise =
        with_offset(file.tensor("noise"), file.tensor("latents"), file.tensor("offset"), strength, adaptive);
    EXPECT_LT(distance(noise, file.tensor(std::string("offset.") + name)), 1e-6) << name;
  }
}

TEST(TrainingNoise, MultiresIsSdScripts) {
  const flame::SafetensorsFile file = expected();
  const Tensor noise = file.tensor("noise");
  const NoiseOptions options = {.multires_noise_iterations = 5, .multires_noise_discount = 0.4};
  MultiresNoise multires(options, noise.shape(), Device::cpu());
  std::vector<Tensor> levels;
  for (const flame::Shape& shape : multires.shapes()) {
    levels.push_back(file.tensor("level." + std::to_string(levels.size())));
    EXPECT_EQ(levels.back().shape(), shape);
  }
  const json all = json::parse(file.metadata().at("ratios"));
  for (const auto& [name, ratios] : all.items()) {
    multires.set(std::vector<double>(ratios.begin() + 1, ratios.end()));
    EXPECT_LT(distance(multires(noise, levels), file.tensor("multires." + name)), 1e-6) << name;
  }
}

TEST(TrainingNoise, MultiresEndsWhereOnePixelIsLeft) {
  const NoiseOptions options = {.multires_noise_iterations = 10};
  const MultiresNoise multires(options, {1, 4, 16, 8}, Device::cpu());
  EXPECT_EQ(multires.shapes().size(), 4u);
  EXPECT_EQ(multires.shapes().back(), (flame::Shape{1, 4, 2, 1}));
  const std::vector<double> ratios = MultiresNoise::ratios(options, 5, 1, 0);
  EXPECT_EQ(ratios.size(), 9u);
  for (double ratio : ratios) EXPECT_TRUE(ratio >= 2 && ratio < 4) << ratio;
  EXPECT_NE(ratios, MultiresNoise::ratios(options, 5, 2, 0));
}

double variance(const Tensor& x) {
  double sum = 0;
  for (float value : x.to_host<float>()) sum += double{value} * value;
  return sum / static_cast<double>(x.numel());
}

TEST(TrainingNoise, IsDrawnAsTheOptionsSay) {
  flame::Generator generator(3);
  const Tensor latents = Tensor::zeros({64, 4, 16, 16});
  const auto draw = [&](const NoiseOptions& options) {
    generator.set_step(7);
    MultiresNoise multires(options, latents.shape(), Device::cpu());
    multires.set(MultiresNoise::ratios(options, 3, 7, 0));
    return draw_noise(options, latents, multires, generator, 0);
  };
  const TrainingNoise plain = draw({});
  EXPECT_EQ(plain.added.to_host<float>(), plain.noise.to_host<float>());
  const TrainingNoise perturbed = draw({.ip_noise_gamma = 0.5, .min_timestep = 200, .max_timestep = 300});
  EXPECT_EQ(perturbed.noise.to_host<float>(), plain.noise.to_host<float>());
  EXPECT_NEAR(variance(perturbed.added - perturbed.noise), 0.25, 0.01);
  const std::vector<int64_t> timesteps = perturbed.timesteps.to_host<int64_t>();
  for (int64_t t : timesteps) EXPECT_TRUE(t >= 200 && t < 300) << t;
  EXPECT_NE(timesteps.front(), timesteps.back());
  const TrainingNoise part = draw({.ip_noise_gamma = 0.5, .ip_noise_gamma_random_strength = true});
  const double strength = std::sqrt(variance(part.added - part.noise) / variance(perturbed.added - perturbed.noise));
  EXPECT_TRUE(strength > 0 && strength < 1) << strength;
  const TrainingNoise offset = draw({.noise_offset = 0.5});
  EXPECT_NEAR(variance(offset.noise - plain.noise), 0.25, 0.05);
  const TrainingNoise multires = draw({.multires_noise_iterations = 6});
  EXPECT_NEAR(variance(multires.noise), 1, 0.01);
  EXPECT_GT(distance(multires.noise, plain.noise), 0.3);
}

TEST(TrainingNoise, SaysWhatCannotBe) {
  const auto message = [](const NoiseOptions& options) { return error_of([&] { require_valid(options); }); };
  EXPECT_NE(message({.noise_offset = -0.1}).find("noise_offset"), std::string::npos);
  EXPECT_NE(message({.adaptive_noise_scale = 0.1}).find("adaptive_noise_scale: needs"), std::string::npos);
  EXPECT_NE(message({.min_timestep = 500, .max_timestep = 500}).find("min_timestep"), std::string::npos);
  EXPECT_NE(message({.max_timestep = 1001}).find("max_timestep"), std::string::npos);
  EXPECT_NE(message({.multires_noise_iterations = 100}).find("multires_noise_iterations"), std::string::npos);
  EXPECT_EQ(message({}), "");
}

}  // namespace
}  // namespace eri
