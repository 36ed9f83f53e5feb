// Runs whose layers differ in kind, rank and learning rate.
#include <gtest/gtest.h>

#include "eri/lora/sdxl_lora.h"
#include "eri/lora/verify.h"
#include "eri/train/evaluate.h"
#include "eri/train/trainer.h"
#include "tests/io/files.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

using flame::testing::error_of;
using flame::testing::TemporaryFolder;

// By parameter.
std::map<std::string, std::vector<float>> values_of(const Trainer& trainer) {
  std::map<std::string, std::vector<float>> values;
  for (const auto& parameter : trainer.parameters().parameters())
    values[parameter.name] = parameter.master.to_host<float>();
  return values;
}

TEST(LayersThatLearn, AreThoseOfTheFile) {
  const TemporaryFolder folder;
  TrainConfig config = blocks_apart(tiny_run(folder.path()));
  config.resolution = {64, 64};
  Trainer trainer(config);
  for (int i = 0; i < 12; ++i) trainer.step();
  trainer.save_lora(folder / "lora.safetensors");

  const LoRA lora = LoRA::from_safetensors(folder / "lora.safetensors");
  std::map<std::string, int64_t> ranks, expected;
  for (const auto& [name, module] : lora.modules()) ranks[name] = module.rank();
  for (const auto& [name, share] : plan_lora(trainer.family().lora_sites(), lora_options(config)))
    expected[name] = share.rank;
  EXPECT_EQ(ranks, expected);
  EXPECT_EQ(ranks.at("lora_unet_input_blocks_4_1_proj_in"), 6);       // block 5
  EXPECT_EQ(ranks.at("lora_unet_input_blocks_4_0_in_layers_2"), 2);   // conv_dim
  EXPECT_EQ(ranks.at("lora_unet_input_blocks_4_0_emb_layers_1"), 6);  // block 5 again
  EXPECT_EQ(ranks.at("lora_unet_output_blocks_2_2_conv"), 2);
  for (const auto& [name, rank] : ranks) {
    EXPECT_FALSE(name.starts_with("lora_unet_middle_block_1_")) << name;  // block_lr_weight 0
    EXPECT_EQ(name.find("_attn2_to_k"), name.npos) << name;               // exclude_patterns
  }
  const LoraReport report = verify_lora(folder / "lora.safetensors",
                                        sdxl_lora_targets(Checkpoint(config.pretrained_model_name_or_path), false));
  EXPECT_EQ(report.complaints, std::vector<std::string>());
  EXPECT_EQ(report.without_effect, 0);

  const auto family = load_sdxl(Checkpoint(config.pretrained_model_name_or_path), flame::Device::cpu());
  const ImageDataset pictures = scan_folder(config.train_data_dir, {.width = 64, .height = 64});
  const CachedDataset cached(pictures, *family, 1);
  family->load_network();
  const double before = fixed_noise_loss(*family, cached);
  apply_loras(std::vector{std::pair{lora, 1.0}}, family->all_targets());
  const double after = fixed_noise_loss(*family, cached);
  EXPECT_LT(after, 0.8 * before);
}

TrainConfig small_run(const std::filesystem::path& output) {
  TrainConfig config = tiny_run(output);
  config.train_data_dir = "tests/data/plain";
  config.resolution = {64, 64};
  return config;
}

// In a first step every gradient is the same, so that a block at half the rate moves as it does in a run at half.
TEST(LayersThatLearn, LearnAtTheirBlocksRates) {
  const TemporaryFolder folder;
  const auto stepped = [&](double learning_rate, const std::vector<double>& weights) {
    TrainConfig config = small_run(folder.path());
    config.conv_dim = 2;
    config.learning_rate = learning_rate;
    config.block_lr_weight = weights;
    Trainer trainer(config);
    const auto start = values_of(trainer);
    trainer.step();
    auto values = values_of(trainer);
    for (const auto& [name, value] : values) {
      const bool moves = name.ends_with(kLoraUp);  // the other factors have no gradient yet
      EXPECT_TRUE(!moves || value != start.at(name)) << name;
    }
    return values;
  };
  std::vector<double> weights(23, 1);
  weights[5] = 0.5, weights[13] = 0.25;  // input_blocks.4, output_blocks.0
  const auto mixed = stepped(4e-3, weights), whole = stepped(4e-3, {}), half = stepped(2e-3, {}),
             quarter = stepped(1e-3, {});
  std::map<double, int> compared;
  for (const auto& [name, values] : mixed) {
    const bool is_half = name.starts_with("lora_unet_input_blocks_4_"),
               is_quarter = name.starts_with("lora_unet_output_blocks_0_");
    ++compared[is_half ? 0.5 : is_quarter ? 0.25 : 1];
    EXPECT_EQ(values, (is_half ? half : is_quarter ? quarter : whole).at(name)) << name;
  }
  EXPECT_EQ(compared.size(), 3);
}

TEST(LayersThatLearn, TakeTheUNetsOwnRate) {
  const TemporaryFolder folder;
  const auto run = [&](double learning_rate, std::optional<double> unet_lr) {
    TrainConfig config = small_run(folder.path());
    config.learning_rate = learning_rate;
    config.unet_lr = unet_lr;
    Trainer trainer(config);
    for (int i = 0; i < 4; ++i) trainer.step();
    return values_of(trainer);
  };
  EXPECT_EQ(run(4e-3, 2e-3), run(2e-3, std::nullopt));
}

TEST(LayersThatLearn, AreRefusedWhereTheyCannot) {
  struct Mistake {
    const char *key, *value, *type, *says;
  };
  for (const auto& [key, value, type, says] : std::vector<Mistake>{
           {"block_dims", "4,4,4", "AdamW", "block_dims: expected 23 numbers"},
           {"exclude_patterns", ".*attn3.*", "AdamW", "matches none of the 192 layers"},
           {"unet_lr", "0", "AdamW", "no layer of the model is left"},
           {"unet_lr", "0.5", "AdaFactor", "relative_step=False"},
           {"block_lr_weight", "1,1,1,1,1,0.5,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "Prodigy", "one step size"},
       }) {
    const TemporaryFolder folder;
    TrainConfig config = small_run(folder.path());
    config.optimizer_type = type;
    set_value(config, *find_key(key), value);
    const std::string message = error_of([&] { const Trainer trainer(config); });
    EXPECT_NE(message.find(says), message.npos) << message;
  }
  // One rate other than the step's is none of Prodigy's business, nor is a block that does not learn.
  const TemporaryFolder folder;
  TrainConfig config = small_run(folder.path());
  config.optimizer_type = "Prodigy";
  config.learning_rate = 0.5;
  config.unet_lr = 1;
  config.block_lr_weight = std::vector<double>(23, 1);
  config.block_lr_weight[11] = 0;
  EXPECT_NO_THROW(const Trainer trainer(config));
}

}  // namespace
}  // namespace eri
