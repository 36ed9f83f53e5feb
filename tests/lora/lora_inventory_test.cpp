#include "eri/lora/lora_inventory.h"

#include <gtest/gtest.h>

#include <cmath>

#include "eri/models/inventory.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"
#include "tests/io/files.h"

namespace eri {
namespace {

using namespace flame;
using flame::testing::TemporaryFolder;

struct Factors {
  Tensor down, up;
};

Factors random_factors(uint64_t seed, const Shape& down, const Shape& up) {
  Generator generator(seed);
  return {Tensor::randn(down, generator), Tensor::randn(up, generator)};
}

double norm_of_whole_product(const Factors& factors) {
  const int64_t rank = factors.down.dim(0);
  const Tensor down = factors.down.view({rank, factors.down.numel() / rank}),
               up = factors.up.view({factors.up.numel() / rank, rank}), product = up.matmul(down);
  double sum = 0;
  for (const float value : product.to_host<float>()) sum += double{value} * value;
  return std::sqrt(sum);
}

LoraInventory inventory(const std::map<std::string, Tensor>& tensors) {
  const TemporaryFolder folder;
  write_safetensors(folder / "lora.safetensors", tensors);
  return lora_inventory_of(WeightFiles(folder / "lora.safetensors"));
}

TEST(LoraInventory, MeasuresTheEffectByBlock) {
  const Factors q = random_factors(1, {4, 16}, {8, 4}), conv = random_factors(2, {2, 6, 3, 3}, {8, 2, 1, 1}),
                te = random_factors(3, {4, 8}, {8, 4});
  const LoraInventory lora =
      inventory({{"lora_unet_input_blocks_4_1_q.lora_down.weight", q.down},
                 {"lora_unet_input_blocks_4_1_q.lora_up.weight", q.up},
                 {"lora_unet_input_blocks_4_1_q.alpha", Tensor::full({}, 8)},
                 {"lora_unet_input_blocks_4_0_in_layers_2.lora_down.weight", conv.down},
                 {"lora_unet_input_blocks_4_0_in_layers_2.lora_up.weight", conv.up},
                 {"lora_unet_input_blocks_4_0_in_layers_2.alpha", Tensor::full({}, 1)},
                 {"lora_te2_text_model_encoder_layers_1_mlp_fc1.lora_down.weight", te.down},
                 {"lora_te2_text_model_encoder_layers_1_mlp_fc1.lora_up.weight", te.up},
                 {"lora_te2_text_model_encoder_layers_1_mlp_fc1.dora_scale", Tensor::ones({8})}});
  EXPECT_EQ(lora.naming, "kohya's, with a single file's block numbers");
  EXPECT_EQ(lora.modules(), 3);
  EXPECT_EQ(lora.ranks, (std::map<int64_t, int64_t>{{2, 1}, {4, 2}}));
  EXPECT_EQ(lora.alphas, (std::map<double, int64_t>{{1, 1}, {4, 1}, {8, 1}}));
  EXPECT_EQ(lora.without_alpha, 1);
  EXPECT_EQ(lora.others, (std::vector<std::string>{"lora_te2_text_model_encoder_layers_1_mlp_fc1.dora_scale"}));
  const double of_q = 2 * norm_of_whole_product(q), of_conv = 0.5 * norm_of_whole_product(conv),
               of_te = norm_of_whole_product(te);
  EXPECT_EQ(lora.blocks.at("input_blocks.4").modules, 2);
  EXPECT_NEAR(lora.blocks.at("input_blocks.4").effect, std::hypot(of_q, of_conv), 1e-4);
  EXPECT_NEAR(lora.blocks.at("text encoder CLIP-G").effect, of_te, 1e-4);
  EXPECT_NEAR(lora.effect(), std::hypot(of_q, of_conv, of_te), 1e-4);
}

TEST(LoraInventory, KnowsTheNamingSchemes) {
  struct Row {
    const char *down, *up, *naming, *block;
  };
  const Row rows[] = {
      {"lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight",
       "lora_unet_down_blocks_1_attentions_0_proj_in.lora_up.weight", "kohya's, with diffusers' block numbers",
       "down_blocks.1"},
      {"unet.mid_block.attentions.0.proj_in.lora_A.weight", "unet.mid_block.attentions.0.proj_in.lora_B.weight",
       "PEFT's, as diffusers saves it", "mid_block"},
      {"unet.up_blocks.0.attentions.0.attn1.processor.to_q_lora.down.weight",
       "unet.up_blocks.0.attentions.0.attn1.processor.to_q_lora.up.weight", "diffusers' before PEFT", "up_blocks.0"},
      {"unet.up_blocks.0.attentions.0.attn1.to_q.lora.down.weight",
       "unet.up_blocks.0.attentions.0.attn1.to_q.lora.up.weight", "diffusers' before PEFT", "up_blocks.0"},
      {"diffusion_model.output_blocks.3.1.proj_in.lora_A.weight",
       "diffusion_model.output_blocks.3.1.proj_in.lora_B.weight", "ComfyUI's generic", "output_blocks.3"},
      {"lycoris_down_blocks_1_attentions_0_proj_in.lora_down.weight",
       "lycoris_down_blocks_1_attentions_0_proj_in.lora_up.weight", "LyCORIS'", "down_blocks.1"},
      {"base_model.model.mid_block.attentions.0.proj_in.lora_A.weight",
       "base_model.model.mid_block.attentions.0.proj_in.lora_B.weight", "PEFT's own", "mid_block"},
      {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
       "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
       "diffusers' before PEFT", "text encoder CLIP-L"},
      {"base_model.model.text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
       "base_model.model.text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_B.weight", "PEFT's own",
       "text encoder CLIP-G"},
      {"unet.mid_block.attentions.0.proj_in.lora_A", "unet.mid_block.attentions.0.proj_in.lora_B",
       "PEFT's, as diffusers saves it", "mid_block"},
      {"lora_unet_time_embed_0.lora_down.weight", "lora_unet_time_embed_0.lora_up.weight", "kohya's", "time_embed"},
      {"lora_unet_double_blocks_12_img_attn_qkv.lora_down.weight",
       "lora_unet_double_blocks_12_img_attn_qkv.lora_up.weight", "kohya's", "double_blocks.12"},
      {"transformer.single_transformer_blocks.3.attn.to_q.lora_A.weight",
       "transformer.single_transformer_blocks.3.attn.to_q.lora_B.weight", "PEFT's, as diffusers saves it",
       "single_transformer_blocks.3"},
      {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
       "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", "kohya's, text encoders only",
       "text encoder CLIP-L"},
  };
  for (const auto& [down, up, naming, block] : rows) {
    const LoraInventory lora = inventory({{down, Tensor::ones({2, 3})}, {up, Tensor::ones({4, 2})}});
    EXPECT_EQ(lora.naming, naming) << down;
    ASSERT_TRUE(lora.blocks.contains(block)) << down;
    EXPECT_NEAR(lora.blocks.at(block).effect, 2 * std::sqrt(12), 1e-5);
    EXPECT_TRUE(lora.others.empty());
  }
}

TEST(LoraInventory, NamesAllNamingSchemesOfAMixedFile) {
  const Tensor down = Tensor::ones({2, 3}), up = Tensor::ones({4, 2});
  const LoraInventory lora = inventory({{"lora_unet_input_blocks_4_1_proj_in.lora_down.weight", down},
                                        {"lora_unet_input_blocks_4_1_proj_in.lora_up.weight", up},
                                        {"lora_unet_down_blocks_1_attentions_0_proj_out.lora_down.weight", down},
                                        {"lora_unet_down_blocks_1_attentions_0_proj_out.lora_up.weight", up},
                                        {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", down},
                                        {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", up}});
  EXPECT_EQ(lora.naming, "kohya's, with diffusers' block numbers and kohya's, with a single file's block numbers");
}

TEST(LoraInventory, CountsBlocksByNumberAndParametersWithoutAlphas) {
  const TemporaryFolder folder;
  std::map<std::string, Tensor> tensors;
  for (const char* block : {"9", "10", "1"}) {
    const std::string module = std::string("lora_unet_double_blocks_") + block + "_img_mod_lin";
    tensors[module + ".lora_down.weight"] = Tensor::ones({2, 3});
    tensors[module + ".lora_up.weight"] = Tensor::ones({4, 2});
    tensors[module + ".alpha"] = Tensor::ones({});
  }
  write_safetensors(folder / "lora.safetensors", tensors);
  std::vector<std::string> names;
  for (const auto& [name, block] : lora_inventory_of(WeightFiles(folder / "lora.safetensors")).blocks)
    names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"double_blocks.1", "double_blocks.9", "double_blocks.10"}));
  const Inventory inventory = inventory_of(folder / "lora.safetensors");
  EXPECT_EQ(inventory.kind.id, "lora-flux");
  EXPECT_EQ(inventory.parts.at("LoRA").tensors, 9);
  EXPECT_EQ(inventory.whole.parameters, 3 * 14);
}

TEST(LoraInventory, ListsWhatIsNoModule) {
  const Tensor down = Tensor::ones({2, 3}), up = Tensor::ones({4, 2});
  const std::string a = "lora_unet_mid_block_a", b = "lora_unet_mid_block_b", c = "lora_unet_mid_block_c",
                    d = "lora_unet_mid_block_d";
  const LoraInventory lora = inventory({{a + ".lora_down.weight", down},
                                        {a + ".lora_up.weight", Tensor::ones({4, 3})},  // of another rank
                                        {b + ".lora_down.weight", down},
                                        {c + ".hada_w1_a", up},
                                        {d + ".lora_down.weight", down},
                                        {d + ".lora_up.weight", up},
                                        {d + ".alpha", Tensor::full({}, NAN)},
                                        {c + ".alpha", Tensor::ones({})}});
  EXPECT_EQ(lora.modules(), 0);
  EXPECT_EQ(lora.others,
            (std::vector<std::string>{a + ".lora_down.weight", a + ".lora_up.weight", b + ".lora_down.weight",
                                      c + ".hada_w1_a", d + ".lora_down.weight", d + ".lora_up.weight"}));
}

}  // namespace
}  // namespace eri
