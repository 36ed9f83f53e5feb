// The loss that training makes of a batch, against that of diffusers' UNet and noise scheduler with torch's float64,
// from tests/reference/training_loss.py.
#include <gtest/gtest.h>

#include "eri/train/family.h"
#include "flame/io/safetensors.h"
#include "tests/io/files.h"

namespace eri {
namespace {

using flame::SafetensorsFile;
using flame::Tensor;

const std::string kModel = "models/eri-tiny.safetensors";

std::unique_ptr<Family> family_of(const std::filesystem::path& model) {
  auto family = load_sdxl(Checkpoint(model), flame::Device::cpu());
  family->release_encoders();
  family->load_network();
  return family;
}

void expect_losses(const std::string& model, const Family& family) {
  const SafetensorsFile file("tests/data/training_loss.safetensors");
  const std::map<std::string, LossOptions> all = {
      {"plain", {}},
      {"min_snr", {.min_snr_gamma = 5}},
      {"debiased", {.debiased_estimation_loss = true}},
      {"huber", {.loss_type = "huber", .huber_schedule = "snr", .huber_c = 0.1}},
  };
  const TrainingNoise noise = {file.tensor("noise"), file.tensor("added"), file.tensor("timesteps")};
  const Conditioning condition = {file.tensor("context"), file.tensor("pooled"), file.tensor("time_ids")};
  for (const auto& [option, options] : all) {
    const Tensor loss = family.loss(file.tensor("latents"), noise, condition, family.loss_of(options));
    const double expected = file.tensor("loss." + model + "." + option).item();
    EXPECT_NEAR(loss.item(), expected, 2e-5 * expected) << model << " " << option;
  }
}

TEST(TrainingLoss, IsThatOfDiffusers) { expect_losses("epsilon", *family_of(kModel)); }

TEST(TrainingLoss, OfModelsThatPredictVIsThatOfDiffusers) {
  const flame::testing::TemporaryFolder folder;
  const SafetensorsFile file(kModel);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : file.entries()) tensors[name] = file.tensor(name);
  for (const auto& [marker, model] : {std::pair{"v_pred", "v"}, {"ztsnr", "v_ztsnr"}}) {
    tensors[marker] = Tensor::zeros({1});
    flame::write_safetensors(folder / "model.safetensors", tensors);
    expect_losses(model, *family_of(folder / "model.safetensors"));
  }
}

}  // namespace
}  // namespace eri
