// Which layers options choose, and what these get.
#include "eri/lora/lora_options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "eri/models/synthetic.h"
#include "eri/models/weight_names.h"
#include "tests/io/files.h"

namespace eri {
namespace {

using flame::testing::error_of;

// All of SDXL, by the shapes of its weights.
const LoraSites& sdxl() {
  static const LoraSites sites = [] {
    const Geometry geometry;
    const auto clip_g = with_our_names(std::make_shared<SyntheticCheckpoint>(geometry, 0, clip_g_prefix));
    LoraSites all = lora_sites(SyntheticCheckpoint(geometry, 0, unet_prefix), LoraPart::unet, LoraPreset::full);
    for (const LoraSites& more : {lora_sites(SyntheticCheckpoint(geometry, 0, clip_l_prefix), LoraPart::clip_l),
                                  lora_sites(*clip_g, LoraPart::clip_g)})
      all.insert(all.end(), more.begin(), more.end());
    return all;
  }();
  return sites;
}

// Modules of the UNet and of both text encoders.
using Counts = std::vector<size_t>;
Counts counts(const LoraPlan& plan) {
  Counts result;
  for (const char* part : {"lora_unet_", "lora_te1_", "lora_te2_"})
    result.push_back(
        std::count_if(plan.begin(), plan.end(), [=](const auto& module) { return module.first.starts_with(part); }));
  return result;
}

// Name by name, from what LyCORIS chose of the model that sd-scripts has.
TEST(LoraOptions, PresetsChooseWhatLycorisDoes) {
  std::ifstream file(TESTS_DIR "/lora/lycoris_presets.tsv");
  std::string line, word;
  std::getline(file, line);
  std::istringstream header(line);
  std::vector<std::string> presets;
  std::map<std::string, std::set<std::string>> expected;
  for (header >> word; header >> word;) presets.push_back(word);
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string module;
    fields >> module;
    for (const std::string& preset : presets) {
      fields >> word;
      if (word == "1") expected[preset].insert(module);
    }
  }
  ASSERT_EQ(presets.size(), 7);
  for (const std::string& name : presets) {
    const LoraPreset preset = parse_lora_preset(name);
    std::set<std::string> chosen;
    for (const auto& [module, share] : plan_lora(sdxl(), {.conv_dim = has_convolutions(preset), .preset = preset}))
      chosen.insert(module);
    EXPECT_EQ(chosen, expected.at(name)) << name;
  }
  EXPECT_NE(error_of([] { parse_lora_preset("attn"); }).find("attn-only"), std::string::npos);
}

// Ranks of SDXL's blocks: 1 of these, and 0.
std::vector<int64_t> only_of(std::initializer_list<size_t> blocks) {
  std::vector<int64_t> each(23, 0);
  for (const size_t block : blocks) each[block] = 1;
  return each;
}

TEST(LoraOptions, WithoutAPresetChooseWhatKohyaDoes) {
  EXPECT_EQ(counts(plan_lora(sdxl(), {})), (Counts{722, 72, 192}));
  EXPECT_EQ(counts(plan_lora(sdxl(), {.conv_dim = 4})), (Counts{788, 72, 192}));
  EXPECT_EQ(counts(plan_lora(sdxl(), {.conv_block_dims = std::vector<int64_t>(23, 1)})), (Counts{788, 72, 192}));
  EXPECT_EQ(counts(plan_lora(sdxl(), {.conv_block_dims = only_of({0, 2})})), (Counts{750 + 2, 72, 192}));
}

TEST(LoraOptions, GiveEachBlockItsRankAlphaAndRate) {
  LoraOptions options = {.dim = 16, .alpha = 8, .conv_dim = 4, .conv_alpha = 2};
  for (int i = 0; i < 23; ++i) {
    options.block_dims.push_back(i);
    options.block_alphas.push_back(i == 8 ? 0 : 100 + i);  // of a block that has none
    options.conv_block_dims.push_back(i == 4 ? 0 : 200 + i);
    options.conv_block_alphas.push_back(300 + i);
    options.block_lr_weight.push_back(i == 8 ? 0 : 0.25 * i);
  }
  options.part_lr = {2, 3, 0};
  const LoraPlan plan = plan_lora(sdxl(), options);
  const auto expect = [&](const char* module, int64_t rank, double alpha, double lr) {
    ASSERT_TRUE(plan.contains(module)) << module;
    EXPECT_EQ(plan.at(module).rank, rank) << module;
    EXPECT_EQ(plan.at(module).alpha, alpha) << module;
    EXPECT_EQ(plan.at(module).lr, lr) << module;
  };
  expect("lora_unet_input_blocks_1_0_emb_layers_1", 2, 102, 1);
  expect("lora_unet_input_blocks_1_0_in_layers_2", 202, 302, 1);
  expect("lora_unet_input_blocks_4_0_skip_connection", 5, 105, 2.5);  // 1x1
  expect("lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_2", 9, 109, 4.5);
  expect("lora_unet_middle_block_0_in_layers_2", 210, 310, 5);
  expect("lora_unet_middle_block_1_proj_in", 11, 111, 5.5);
  expect("lora_unet_output_blocks_0_1_proj_in", 13, 113, 6.5);
  expect("lora_unet_output_blocks_8_0_out_layers_3", 221, 321, 10.5);
  expect("lora_te1_text_model_encoder_layers_0_mlp_fc1", 16, 8, 3);
  EXPECT_FALSE(plan.contains("lora_unet_input_blocks_3_0_op"));                 // conv_block_dims
  EXPECT_FALSE(plan.contains("lora_unet_input_blocks_7_1_proj_in"));            // block_lr_weight
  EXPECT_FALSE(plan.contains("lora_unet_input_blocks_7_0_in_layers_2"));        // the same
  EXPECT_FALSE(plan.contains("lora_te2_text_model_encoder_layers_0_mlp_fc1"));  // part_lr
}

// For blocks of which those in the middle have nothing.
template <class Number>
std::vector<Number> without_middle() {
  std::vector<Number> each(23, 1);
  std::fill(each.begin() + 10, each.begin() + 13, 0);
  return each;
}

TEST(LoraOptions, PatternsMatchWholeNames) {
  const auto chosen = [](std::vector<std::string> exclude, std::vector<std::string> include = {}) {
    return counts(plan_lora(sdxl(), {.include_patterns = include, .exclude_patterns = exclude}));
  };
  EXPECT_EQ(chosen({R"(.*\.attn2\..*)"}), (Counts{722 - 280, 72, 192}));
  EXPECT_EQ(chosen({R"(.*\.attn2\.to_[kv])"}), (Counts{722 - 140, 72, 192}));
  EXPECT_EQ(chosen({R"(middle_block\.1\.proj_(in|out))", "lora_te1_.*"}), (Counts{720, 0, 192}));
  EXPECT_EQ(chosen({".*"}, {R"(input_blocks\.4\..*)"}), (Counts{22, 0, 0}));
  EXPECT_EQ(counts(plan_lora(sdxl(), {.block_dims = without_middle<int64_t>(),
                                      .include_patterns = {R"((input_blocks\.4|middle_block)\..*)"},
                                      .exclude_patterns = {".*"}})),
            (Counts{22, 0, 0}));
  EXPECT_EQ(chosen({R"(.*\.attn2\..*)"}, {".*attn2.*", "middle_block.*"}), (Counts{722, 72, 192}));  // some are enough
  EXPECT_EQ(chosen({"(?!.*proj).*", R"(.*self_attn.*|.*\.mlp\..*)"}), (Counts{22 + 70, 0, 0}));  // ff.net.0.proj too
}

TEST(LoraOptions, SayInOneSentenceWhatCannotBe) {
  struct Mistake {
    LoraOptions options;
    std::vector<const char*> says;
  };
  for (const auto& [options, says] : std::vector<Mistake>{
           {{.dim = 0}, {"network_dim: expected 1 to 4096, got 0"}},
           {{.conv_dim = -1}, {"conv_dim"}},
           {{.block_dims = {4, 4}}, {"block_dims: expected 23 numbers", "got 2"}},
           {{.block_alphas = std::vector<double>(24, 1)}, {"block_alphas: expected 23 numbers", "got 24"}},
           {{.conv_dim = 1, .conv_block_alphas = std::vector<double>(23, 0)}, {"conv_block_alphas", "above 0", "_2"}},
           {{.block_alphas = std::vector<double>(23, -1)}, {"block_alphas", "0 or more"}},
           {{.block_lr_weight = std::vector<double>(23, -1)}, {"block_lr_weight", "0 or more, got -1"}},
           {{.block_lr_weight = std::vector<double>(23, 0), .preset = LoraPreset::unet_only}, {"conv_dim"}},
           {{.conv_block_alphas = std::vector<double>(23, 1)}, {"conv_block_alphas", "leave it out, or give"}},
           {{.conv_alpha = 4}, {"conv_alpha: convolutions get no LoRA; leave it out, or give", "conv_dim"}},
           {{.conv_alpha = 4, .preset = LoraPreset::attn_only}, {"leave it out"}},
           {{.part_lr = {1, 1, 0}, .exclude_patterns = {"lora_te2_.*"}},
            {"'lora_te2_.*' matches none", "is of CLIP-G, a model that does not train: text_encoder_lr"}},
           {{.part_lr = {0, 1, 1}, .exclude_patterns = {"lora_unet_.*"}}, {"of the UNet", "unet_lr is 0"}},
           {{.conv_dim = 4, .conv_block_dims = std::vector<int64_t>(23, 0)},
            {"conv_block_dims: all are 0", "full-lin"}},
           {{.part_lr = {0, 0, 0}}, {"no layer", "is left"}},
           {{.conv_dim = 4, .preset = LoraPreset::attn_only}, {"conv_dim", "attn-only has no convolutions"}},
           {{.exclude_patterns = {"attn1"}}, {"'attn1' matches none of the 986 layers", "attn-mlp", "whole name"}},
           {{.exclude_patterns = {".*attn3.*"}}, {"'.*attn3.*'", "closest in one is 'attn", ".attn"}},
           {{.exclude_patterns = {"everything"}}, {"'everything'", "a whole name, such as input_blocks.4.1.proj_in"}},
           {{.exclude_patterns = {".*in_layers.*"}},
            {"none of the 986 layers of the preset attn-mlp", "is no layer of the preset"}},
           {{.include_patterns = {".*"}}, {"include_patterns", "exclude_patterns"}},
           {{.include_patterns = {"ff"}, .exclude_patterns = {".*"}}, {"include_patterns", "'ff'"}},
           {{.block_dims = without_middle<int64_t>(),
           .include_patterns = {".*attn1.*", "middle_block.*"},
           .exclude_patterns = {".*"}},
            {"include_patterns: 'middle_block.*' brings no layer back", "the rank or block_lr_weight is 0"}},
           {{.block_lr_weight = without_middle<double>(),
           .include_patterns = {"lora_unet_middle_block_1_.*"},
           .exclude_patterns = {".*ff.*"}},
            {"'lora_unet_middle_block_1_.*' brings no layer back"}},
           {{.include_patterns = {".*attn2.to_q", ".*ff.*"}, .exclude_patterns = {".*attn2.*"}},
            {"include_patterns: '.*ff.*' brings no layer back: exclude_patterns leave out none"}},
           {{.block_dims = without_middle<int64_t>(),
           .include_patterns = {".*proj_in"},
           .exclude_patterns = {"middle_block.*"}},
            {"'.*proj_in' brings no layer back: in the blocks of all that it could the rank"}},
           {{.conv_block_dims = only_of({0, 1, 11, 22})}, {"conv_block_dims: all blocks", "without convolutions"}},
           {{.block_dims = only_of({0, 2, 22})}, {"block_dims: all blocks", "linear layers of the preset"}},
           {{.exclude_patterns = {".*(to_q"}}, {"exclude_patterns", "'.*(to_q'", "no regular expression"}},
           {{.exclude_patterns = {".*"}}, {"no layer", "is left"}},
           {{.exclude_patterns = {"((.*)*)*[^z]z"}}, {"'((.*)*)*[^z]z'", "takes too long"}},
       }) {
    const std::string message = error_of([&] { plan_lora(sdxl(), options); });
    for (const char* part : says) EXPECT_NE(message.find(part), message.npos) << part << " is not in: " << message;
  }
}

}  // namespace
}  // namespace eri
