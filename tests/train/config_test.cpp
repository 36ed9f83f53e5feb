#include "eri/train/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "eri/train/sd_scripts_keys.h"
#include "flame/core/error.h"
#include "tests/io/files.h"

namespace eri {
namespace {

using flame::testing::TemporaryFolder;

TrainConfig read(const std::string& toml) {
  const TemporaryFolder folder;
  flame::testing::write_file(folder / "run.toml", toml);
  TrainConfig config;
  read_toml(folder / "run.toml", config);
  return config;
}

std::string complaint(const std::string& toml) {
  try {
    validate(read(toml));
  } catch (const flame::Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Config, ReadsKohyasKeysWithOrWithoutSections) {
  const TrainConfig config = read(R"toml(
pretrained_model_name_or_path = "base.safetensors"
resolution = "768,512"
[training]
learning_rate = 1      # an integer where a number is meant
network_dim = 4
save_state = false
optimizer_args = ["betas=(0.9, 0.99) ", "eps=1e-6"]
unet_lr = 2
text_encoder_lr = [0.5, 0]
block_dims = "4, 8,16"
block_lr_weight = [1, 0.5]
exclude_patterns = ['.*attn[12]\..*', "middle_block.*"]
)toml");
  EXPECT_EQ(config.pretrained_model_name_or_path, "base.safetensors");
  EXPECT_EQ(config.resolution.width, 768);
  EXPECT_EQ(config.resolution.height, 512);
  EXPECT_EQ(config.learning_rate, 1);
  EXPECT_EQ(config.network_dim, 4);
  EXPECT_FALSE(config.save_state);
  EXPECT_EQ(config.optimizer_args, "betas=(0.9,0.99) eps=1e-6");
  EXPECT_EQ(config.unet_lr, 2);
  EXPECT_EQ(config.block_dims, (std::vector<int64_t>{4, 8, 16}));
  EXPECT_EQ(config.block_lr_weight, (std::vector<double>{1, 0.5}));
  const LoraOptions lora = lora_options(config);
  EXPECT_EQ(lora.part_lr, (std::array<double, 3>{2, 0.5, 0}));
  EXPECT_EQ(lora.exclude_patterns, (std::vector<std::string>{".*attn[12]\\..*", "middle_block.*"}));
}

TEST(Config, TrainsTextEncodersOnlyWhereItIsTold) {
  using Factors = std::array<double, 3>;
  const char* base = "learning_rate = 0.5\n";
  EXPECT_EQ(lora_options(read(base)).part_lr, (Factors{1, 0, 0}));
  for (const char* one : {"text_encoder_lr = 0.25", "text_encoder_lr = [0.25]", "text_encoder_lr = '0.25'"})
    EXPECT_EQ(lora_options(read(std::string(base) + one)).part_lr, (Factors{1, 0.5, 0.5})) << one;
  EXPECT_EQ(lora_options(read(std::string(base) + "text_encoder_lr = '1, 0'")).part_lr, (Factors{1, 2, 0}));
}

TEST(Config, EveryKeyCanBeWrittenAndReadBack) {
  TrainConfig config;
  config.learning_rate = 1.0 / 3;
  config.resolution = {640, 1536};
  config.unet_lr = 0.1;
  config.text_encoder_lr = {5e-5, 1e-5};
  config.block_dims = {0, 4096};
  config.conv_block_alphas = {1.0 / 3, 2};
  for (const ConfigKey& key : config_keys()) {
    TrainConfig copy;
    set_value(copy, key, value_of(config, key));
    EXPECT_EQ(value_of(copy, key), value_of(config, key)) << key.name;
  }
}

TEST(Config, FlagsMayHaveHyphens) {
  EXPECT_EQ(find_key("max-train-steps"), find_key("max_train_steps"));
  EXPECT_EQ(find_key("model"), find_key("pretrained_model_name_or_path"));
  EXPECT_EQ(find_key("max_train_step"), nullptr);
}

struct Mistake {
  const char* toml;
  std::vector<const char*> says;
};

TEST(Config, MistakesAreNamedWithTheirRemedy) {
  const std::string whole = "pretrained_model_name_or_path = 'a'\ntrain_data_dir = 'b'\n";
  EXPECT_EQ(complaint(whole), "none");
  for (const auto& [toml, says] : std::vector<Mistake>{
           {"learning_rat = 1e-4", {"run.toml, line 3", "learning_rat", "learning_rate"}},
           {"network_rank = 4", {"network_rank", "did you mean"}},
           {"rank = 4", {"line 3: there is no key 'rank'; eri train --help lists all keys"}},
           {"network_args = ['conv_dim=4']",
            {"line 3", "no key 'network_args': its arguments are keys", "lora_preset"}},
           {"network_module = 'networks.lora'", {"'network_module': delete it", "networks.lora"}},
           {"network_train_unet_only = true", {"'network_train_unet_only': delete it", "text_encoder_lr"}},
           {"network_train_text_encoder_only = true", {"only': give unet_lr = 0 and text_encoder_lr"}},
           {"[a]\npreset = 'full'", {"line 4", "'preset': it is lora_preset"}},
           {"enable_bucket = true", {"'enable_bucket': eri has no buckets", "the result is another"}},
           {"[[datasets]]\nbatch_size = 2", {"line 3: there is no key 'datasets': eri reads no datasets"}},
           {"max_train_epochs = 4", {"count in steps: max_train_steps"}},
           {"learning_rate = 'fast'", {"line 3", "learning_rate", "expected a number", "string"}},
           {"max_train_steps = 10.5", {"max_train_steps", "expected an integer"}},
           {"save_state = 1", {"save_state", "true or false"}},
           {"resolution = true", {"resolution"}},
           {"resolution = '1024x768'", {"resolution", "1024,768"}},
           {"resolution = 1000001", {"resolution", "multiples of 8"}},
           {"max_token_length = 77", {"max_token_length", "a multiple of 75"}},
           {"max_token_length = 0", {"max_token_length", "from 75"}},
           {"lr_scheduler = 'cosin'", {"lr_scheduler", "cosine"}},
           {"optimizer_type = 'SGD'", {"optimizer_type", "AdamW"}},
           {"optimizer_args = ['d_coef=2']", {"optimizer_args", "AdamW has no 'd_coef'"}},
           {"optimizer_args = [2]", {"line 3", "optimizer_args", "strings"}},
           {"optimizer_args = 7", {"line 3", "optimizer_args"}},
           {"optimizer_type = 'AdamWScheduleFree'\nlr_scheduler = 'cosine'", {"lr_scheduler", "warmup_steps"}},
           {"lr_scheduler_num_cycles = 0", {"lr_scheduler_num_cycles"}},
           {"lr_scheduler_power = 0", {"lr_scheduler_power"}},
           {"lr_scheduler = 'polynomial'\nlearning_rate = 1e-8", {"learning_rate", "1e-7"}},
           {"loss_type = 'mse'", {"loss: loss_type", "smooth_l1"}},
           {"huber_schedule = 'linear'", {"huber_schedule", "exponential"}},
           {"adaptive_noise_scale = 0.1", {"noise: adaptive_noise_scale", "noise_offset"}},
           {"max_timestep = 2000", {"max_timestep", "1000"}},
           {"mixed_precision = 'fp8'", {"mixed_precision", "bf16"}},
           {"max_vram = -1", {"max_vram"}},
           {"max_vram = 0.5", {"max_vram", "0.75 GiB"}},
           {"network_alpha = 0", {"network_alpha"}},
           {"conv_dim = -1", {"conv_dim", "0 to 4096"}},
           {"conv_dim = 4\nconv_alpha = 0", {"conv_alpha", "above 0"}},
           {"conv_alpha = 8", {"conv_alpha: convolutions get no LoRA", "conv_dim"}},
           {"conv_block_dims = [0, 0]", {"conv_block_dims: all are 0"}},
           {"block_dims = [4, 4.5]", {"line 3", "block_dims", "integers in the list"}},
           {"block_dims = '4,,4'", {"line 3", "block_dims", "integers with commas"}},
           {"block_dims = [4, -4]", {"block_dims", "0 to 4096"}},
           {"block_lr_weight = [1, -0.5]", {"block_lr_weight", "0 or more"}},
           {"block_lr_weight = 1", {"block_lr_weight", "a list"}},
           {"unet_lr = -1e-4", {"unet_lr", "0 or more"}},
           {"unet_lr = 'fast'", {"unet_lr", "a number or auto"}},
           {"lora_preset = 'attn'", {"lora_preset", "attn-only", "'attn'"}},
           {"lora_preset = 'full'", {"conv_dim", "full has convolutions"}},
           {"lora_preset = 'attn-mlp'\nconv_dim = 4", {"conv_dim", "attn-mlp has no convolutions"}},
           {"exclude_patterns = ['.*(attn1']", {"exclude_patterns", "'.*(attn1'", "PAREN"}},
           {"exclude_patterns = ['.*attn1.*', 'to q']", {"exclude_patterns", "'to q'", "white space"}},
           {"block_dims = '4,4,'", {"line 3", "block_dims", "integers with commas"}},
           {"include_patterns = ['.*attn1.*']", {"include_patterns", "exclude_patterns"}},
           {"train_batch_size = 0", {"train_batch_size"}},
           {"learning_rate = nan", {"learning_rate"}},
           {"learning_rate = ", {"line 3"}},
       }) {
    const std::string message = complaint(whole + toml);
    for (const char* part : says) EXPECT_NE(message.find(part), message.npos) << toml << " gave: " << message;
  }
}

// Nobody who comes from sd-scripts is left with a key that is only unknown.
TEST(Config, EveryKeyOfSdScriptsIsOursOrHasARemedy) {
  std::set<std::string> theirs;
  std::ifstream file(TESTS_DIR "/train/sd_scripts_keys.txt");
  for (std::string line; std::getline(file, line);)
    if (!line.starts_with('#')) theirs.insert(line);
  EXPECT_GT(theirs.size(), 200);
  for (const std::string& key : theirs)
    EXPECT_NE(find_key(key) != nullptr, !instead_of_sd_scripts_key(key).empty()) << key;
  for (const SdScriptsKey& row : sd_scripts_keys()) EXPECT_TRUE(theirs.contains(row.key)) << row.key;
  EXPECT_EQ(instead_of_sd_scripts_key("network-module"), instead_of_sd_scripts_key("network_module"));
}

// A remedy is of use only while what it names is there.
TEST(Config, RemediesForKeysOfSdScriptsSayWhatToDo) {
  const auto is_theirs = [](const std::string& word) { return !instead_of_sd_scripts_key(word).empty(); };
  for (const auto& [key, instead] : sd_scripts_keys()) {
    const std::string text = instead;
    const std::vector<std::string> named = keys_named_in(text);
    for (const std::string& word : named)
      EXPECT_TRUE(find_key(word) || is_theirs(word)) << key << " names " << word << ": " << text;
    const bool names_ours = std::any_of(named.begin(), named.end(), [](const auto& word) { return find_key(word); });
    EXPECT_TRUE(names_ours || text.find("delete it") != text.npos) << key << ": " << text;
  }
  EXPECT_EQ(keys_named_in("a_b, 10_cats FILE_NAME c. d_1"), (std::vector<std::string>{"a_b", "d_1"}));
}

TEST(Config, AllThatIsWrongIsReportedAtOnce) {
  const std::string message = complaint("network_dim = 0\ntrain_batch_size = -1");
  for (const char* part : {"pretrained_model_name_or_path", "train_data_dir", "network_dim", "train_batch_size"})
    EXPECT_NE(message.find(part), message.npos) << message;
}

TEST(Config, AllWrongLinesOfAFileAreReportedInItsOrder) {
  const std::string message = complaint("seeds = 1\n[training]\nnetwork_dims = 'a'\nconv_dim = 'b'\nsed = 7");
  const std::vector<const char*> expected = {"line 1: there is no key 'seeds'",
                                             "line 3: there is no key 'network_dims'", "line 4: conv_dim",
                                             "line 5: there is no key 'sed'"};
  size_t at = 0;
  for (const char* part : expected) {
    at = message.find(part, at);
    ASSERT_NE(at, message.npos) << part << " is not next in: " << message;
  }
}

}  // namespace
}  // namespace eri
