#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "../nn/weight_map.h"
#include "eri/lora/lora.h"
#include "eri/lora/programs.h"
#include "eri/lora/sdxl_lora.h"
#include "eri/models/synthetic.h"
#include "eri/models/weight_names.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

using flame::error_of;
using flame::Tensor;
using Tensors = std::map<std::string, Tensor>;

// A module's stem in a scheme and how its factors' names end, written from what the schemes' programs save.
struct Names {
  std::string module, down, up;
};
struct Row {
  std::string name, kind, diffusers, checkpoint;  // as the tables have them
  bool unet() const { return name.starts_with("lora_unet_"); }
};
using Scheme = std::function<Names(const Row&)>;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

std::string underscored(const std::string& text) { return replaced(text, ".", "_"); }

Names kohya(const Row& row) { return {row.name, ".lora_down.weight", ".lora_up.weight"}; }
Names kohya_diffusers(const Row& row) {
  return {row.unet() ? "lora_" + underscored(row.diffusers) : row.name, ".lora_down.weight", ".lora_up.weight"};
}
Names lycoris(const Row& row) {
  return {row.unet() ? underscored(replaced(row.diffusers, "unet.", "lycoris.")) : row.name, ".lora_down.weight",
          ".lora_up.weight"};
}
Names peft(const Row& row) { return {row.diffusers, ".lora_A.weight", ".lora_B.weight"}; }
Names peft_default(const Row& row) { return {row.diffusers, ".lora_A.default.weight", ".lora_B.default.weight"}; }
Names peft_saved(const Row& row) {
  return {"base_model.model." + (row.unet() ? replaced(row.diffusers, "unet.", "") : row.diffusers), ".lora_A.weight",
          ".lora_B.weight"};
}
Names diffusers_mid(const Row& row) { return {row.diffusers, ".lora.down.weight", ".lora.up.weight"}; }
Names diffusers_old(const Row& row) {
  if (!row.unet()) return {row.diffusers, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"};
  if (row.diffusers.find(".attn") == row.diffusers.npos) return diffusers_mid(row);
  const std::string layer = replaced(replaced(row.diffusers, ".to_out.0", ".to_out"), ".to_", ".processor.to_");
  return {layer, "_lora.down.weight", "_lora.up.weight"};
}
Names comfyui(const Row& row) {
  const std::string path =
      row.unet() ? replaced(row.checkpoint, "model.diffusion_model.", "diffusion_model.")
                 : replaced(replaced(row.diffusers, "text_encoder_2.", "text_encoders.clip_g.transformer."),
                            "text_encoder.", "text_encoders.clip_l.transformer.");
  return {path, ".lora_A.weight", ".lora_B.weight"};
}
Names comfyui_down_up(const Row& row) { return {comfyui(row).module, ".lora_down.weight", ".lora_up.weight"}; }

std::vector<Row> read_rows(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  std::vector<Row> rows;
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    Row row;
    std::string in, out;
    for (std::string* field : {&row.name, &row.kind, &in, &out, &row.diffusers, &row.checkpoint})
      std::getline(fields, *field, '\t');
    rows.push_back(row);
  }
  return rows;
}

// eri-tiny, from the formula.
struct Models {
  UNet unet{scope(SyntheticCheckpoint(geometry(), 0, unet_prefix))};
  CLIPTextEncoder clip_l{scope(SyntheticCheckpoint(geometry(), 0, clip_l_prefix)), Activation::quick_gelu};
  CLIPTextEncoder clip_g{scope(*with_our_names(std::make_shared<SyntheticCheckpoint>(geometry(), 0, clip_g_prefix))),
                         Activation::gelu};
  LoraTargets targets = sdxl_lora_targets(unet, clip_l, clip_g);

  // What they make of a text and a picture: the texts' states, the pooled text, the UNet's output.
  std::vector<Tensor> predict() const {
    std::vector<int32_t> tokens(77, 49407);
    for (int32_t i = 0; i < 6; ++i) tokens[i] = i ? 1000 * i : 49406;
    const Tensor ids = Tensor::from(tokens, {1, 77});
    const Tensor hidden_l = clip_l.encode(ids, false).hidden;
    const auto [hidden_g, pooled] = clip_g.encode(ids);
    flame::Generator generator(1);
    const Tensor x = Tensor::randn({1, 4, 8, 12}, generator), t = Tensor::from(std::vector<int32_t>{400}, {1}),
                 time_ids = Tensor::from(std::vector<float>{64, 96, 0, 0, 64, 96}, {1, 6});
    const std::vector<Tensor> states = {hidden_l, hidden_g};
    return {hidden_l, hidden_g, pooled, unet(x, t, flame::concat(states, 2), pooled, time_ids)};
  }

 private:
  static Geometry geometry() { return Geometry::load("models/eri-tiny.json"); }
  static flame::Scope scope(const flame::WeightSource& weights) {
    return flame::Scope(weights, flame::DType::f32, flame::Device::cpu());
  }
};

double distance(const Tensor& a, const Tensor& b) {
  double difference = 0, norm = 0;
  const std::vector<float> actual = a.to_host<float>(), expected = b.to_host<float>();
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// eri-tiny's modules, all 264 with convolutions, and a LoRA for them.
class NamesInLoras : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    targets_ = Models().targets;
    rows_ = read_rows("models/eri-tiny-lora-modules.tsv");
    for (const Row& row : read_rows("models/eri-tiny-lora-modules-conv.tsv")) rows_.push_back(row);
    lora_ = random_lora(targets_, {.dim = 3, .alpha = 1.5, .conv_dim = 2, .conv_alpha = 0.5, .seed = 8});
  }
  void SetUp() override { std::filesystem::create_directory(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // The tensors of the LoRA as a scheme names them.
  static Tensors tensors(const Scheme& scheme, bool alphas = true) {
    Tensors tensors;
    for (const Row& row : rows_) {
      const auto& [module, down, up] = scheme(row);
      const LoRA::Module& factors = lora_.modules().at(row.name);
      tensors[module + down] = in_file_layout(factors.down);
      tensors[module + up] = in_file_layout(factors.up);
      if (alphas) tensors[module + ".alpha"] = Tensor::full({}, factors.alpha);
    }
    return tensors;
  }
  LoRA read(const Tensors& tensors) const {
    const auto file = folder_ / "lora.safetensors";
    flame::write_safetensors(file, tensors);
    return LoRA::from_safetensors(file, targets_);
  }
  // The message of refusing them, which names the file.
  std::string refusal(const Tensors& tensors) const {
    const std::string message = error_of([&] { read(tensors); });
    EXPECT_TRUE(message.starts_with((folder_ / "lora.safetensors").string() + ": ")) << message;
    return message;
  }
  static void expect_same(const LoRA& read, bool alphas = true) {
    ASSERT_EQ(read.modules().size(), lora_.modules().size());
    for (const auto& [name, module] : lora_.modules()) {
      const LoRA::Module& found = read.modules().at(name);
      ASSERT_EQ(found.down.shape(), module.down.shape()) << name;
      ASSERT_EQ(found.down.to_host<float>(), module.down.to_host<float>()) << name;
      ASSERT_EQ(found.up.to_host<float>(), module.up.to_host<float>()) << name;
      ASSERT_EQ(found.alpha, alphas ? module.alpha : static_cast<double>(module.rank())) << name;
    }
  }

  static inline LoraTargets targets_;
  static inline std::vector<Row> rows_;
  static inline LoRA lora_;
  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("naming_test-" + std::to_string(getpid()));
};

void expect_part(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST_F(NamesInLoras, OfEveryProgramReadsToTheSameAdapters) {
  ASSERT_EQ(rows_.size(), targets_.size());
  const std::pair<const char*, Scheme> schemes[] = {
      {"kohya, a single file's numbers", kohya},
      {"kohya, diffusers' numbers", kohya_diffusers},
      {"LyCORIS", lycoris},
      {"PEFT", peft},
      {"PEFT, the default adapter", peft_default},
      {"PEFT's save_pretrained", peft_saved},
      {"diffusers, middle", diffusers_mid},
      {"diffusers, old", diffusers_old},
      {"ComfyUI", comfyui},
      {"ComfyUI, down and up", comfyui_down_up},
  };
  for (const auto& [name, scheme] : schemes) {
    SCOPED_TRACE(name);
    expect_same(read(tensors(scheme)));
    const LoRA plain = read(tensors(scheme, false));
    expect_same(plain, false);
    ASSERT_EQ(plain.warnings().size(), 1);
    expect_part(plain.warnings()[0], "no alpha, so that the scale is 1");
  }
}

// A model with the adapters predicts what one with strength * alpha / rank * up down added to its weights does.
TEST_F(NamesInLoras, AppliedPredictsWhatTheMergedModelDoes) {
  constexpr float strength = 0.6f;
  const Models plain, merged;
  for (const LoraTarget& target : merged.targets) {
    const LoRA::Module& module = lora_.modules().at(target.name);
    const int64_t rank = module.rank(), out = target.out();
    const Tensor product = module.up.view({out, rank}).matmul(module.down.view({rank, module.down.numel() / rank}));
    std::visit(
        [&](const auto& layer) {
          Tensor& weight = layer.weight();
          weight = (weight + product.view(weight.shape()) * (strength * module.scale())).freeze();
        },
        target.layer);
  }
  const std::vector<Tensor> before = plain.predict(), expected = merged.predict();
  for (const Scheme& scheme :
       {Scheme(kohya), Scheme(kohya_diffusers), Scheme(lycoris), Scheme(peft), Scheme(peft_default), Scheme(peft_saved),
        Scheme(diffusers_mid), Scheme(diffusers_old), Scheme(comfyui), Scheme(comfyui_down_up)}) {
    const Models adapted;
    apply_loras(std::vector{std::pair{read(tensors(scheme)), static_cast<double>(strength)}}, adapted.targets);
    const std::vector<Tensor> found = adapted.predict();
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_LT(distance(found[i], expected[i]), 1e-5) << i;
      EXPECT_GT(distance(before[i], expected[i]), 1e-2) << i;
    }
  }
}

TEST_F(NamesInLoras, MayHaveARankForEachBlock) {
  std::vector<int64_t> dims(23, 4);
  std::vector<double> alphas(23, 2);
  dims[5] = 2, alphas[5] = 1;    // input_blocks.4
  dims[11] = 6, alphas[11] = 3;  // middle_block.1
  dims[13] = 0;                  // output_blocks.0
  const LoRA lora = new_lora(
      targets_, {.dim = 3, .alpha = 1.5, .conv_dim = 5, .conv_alpha = 5, .block_dims = dims, .block_alphas = alphas});
  const auto expect = [&](const std::string& name, int64_t rank, double alpha) {
    ASSERT_TRUE(lora.modules().contains(name)) << name;
    EXPECT_EQ(lora.modules().at(name).rank(), rank) << name;
    EXPECT_EQ(lora.modules().at(name).alpha, alpha) << name;
  };
  expect("lora_unet_input_blocks_4_1_proj_in", 2, 1);
  expect("lora_unet_input_blocks_5_1_proj_in", 4, 2);
  expect("lora_unet_middle_block_1_proj_in", 6, 3);
  expect("lora_unet_output_blocks_1_1_proj_in", 4, 2);
  expect("lora_unet_output_blocks_0_0_in_layers_2", 5, 5);
  expect("lora_te1_text_model_encoder_layers_0_mlp_fc1", 3, 1.5);
  EXPECT_FALSE(lora.modules().contains("lora_unet_output_blocks_0_1_proj_in"));
  expect_part(error_of([] { new_lora(targets_, {.conv_dim = 1, .block_dims = {4, 4}}); }), "expected 23 numbers");
}

TEST_F(NamesInLoras, OfAnotherModelIsRefusedWithAReason) {
  const auto with = [&](const std::string& name, const Tensor& value = Tensor::zeros({2, 8})) {
    Tensors all = tensors(kohya);
    all[name] = value;
    return refusal(all);
  };
  for (const char* sd1 : {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
                          "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
                          "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight",
                          "lora_unet_input_blocks_1_1_proj_in.lora_down.weight"}) {
    expect_part(with(sd1), sd1);
    expect_part(with(sd1), "this is a LoRA for Stable Diffusion 1 or 2 (");
  }
  expect_part(with("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"), "for Flux");
  expect_part(with("base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"), "which of SDXL's two");
  expect_part(with("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"), "for Stable Diffusion 3");
  expect_part(with("surprise"), "surprise");
}

// As sd-scripts writes a whole LoRA for Stable Diffusion 1.5: some of its names are SDXL's, too.
TEST_F(NamesInLoras, OfAWholeLoraForStableDiffusion1AreRefused) {
  Tensors all, shared;
  const auto add = [](Tensors& to, const std::string& module, int64_t in, int64_t out) {
    to[module + ".lora_down.weight"] = Tensor::ones({4, in});
    to[module + ".lora_up.weight"] = Tensor::ones({out, 4});
    to[module + ".alpha"] = Tensor::full({}, 4);
  };
  for (const auto& [block, width] : {std::pair{"down_blocks_0_attentions_0", 320},
                                     {"down_blocks_1_attentions_0", 640},
                                     {"mid_block_attentions_0", 1280},
                                     {"up_blocks_3_attentions_2", 320}}) {
    const std::string place = std::string("lora_unet_") + block + "_transformer_blocks_0_";
    add(all, place + "attn1_to_q", width, width);
    add(all, place + "attn2_to_k", 768, width);
  }
  add(all, "lora_te_text_model_encoder_layers_0_mlp_fc1", 768, 3072);
  const std::string message = refusal(all);
  expect_part(message, ": this is a LoRA for Stable Diffusion 1 or 2 (");
  expect_part(message, "): take one trained on SDXL");

  // Names that SDXL has too are refused for their shapes.
  const std::string module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k";
  add(shared, module, 768, 1280);
  const std::vector<std::pair<LoRA, double>> loras = {{read(shared), 1}};
  const std::string by_shape = error_of([&] { apply_loras(loras, targets_); });
  expect_part(by_shape, "lora_down has shape [4, 768], the layer needs [4, ");
  expect_part(by_shape, "trained on another model");
}

// Each kind of module that people's files have and eri does not read, in one sentence that lists its tensors.
TEST_F(NamesInLoras, OfOtherKindsAreRefusedBySentencesThatNameThem) {
  const std::string module = rows_[0].name, extract = "merge it into its base model", out = "take them out of the file";
  struct Row {
    const char* what;
    std::vector<std::string> tensors;
    std::string remedy;
  };
  const std::vector<Row> rows = {
      {"LoHa modules, which eri does not read", {module + ".hada_w1_a", module + ".hada_w1_b"}, extract},
      {"LoKr modules, which eri does not read", {module + ".lokr_w1", module + ".lokr_w2_a"}, extract},
      {"OFT modules, which eri does not read", {module + ".oft_blocks", "oft_unet_x.oft_blocks"}, extract},
      {"GLoRA modules, which eri does not read", {module + ".a1.weight", module + ".b2.weight"}, extract},
      {"(IA)^3 modules, which eri does not read", {module + ".on_input"}, extract},
      {"DoRA's magnitudes, without which", {module + ".dora_scale", module + ".lora_magnitude_vector"}, extract},
      {"convolutions in three factors (Tucker's)", {module + ".lora_mid.weight"}, extract},
      {"whole differences of weights", {module + ".diff", module + ".diff_b", module + ".w_norm"}, extract},
      {"a textual inversion (an embedding)", {"bundle_emb.cat.string_to_param.*"}, out},
      {"modules of the time and size embeddings",
       {"lora_unet_label_emb_0_0.lora_up.weight", "lora_unet_time_embed_0.lora_down.weight",
        "unet.add_embedding.linear_1.lora_A.weight", "unet.time_embedding.linear_1.lora_A.weight"},
       out},
      {"modules of the UNet's first convolution",
       {"lora_unet_input_blocks_0_0.lora_down.weight", "unet.conv_in.lora_A.weight"},
       out},
      {"modules of the UNet's last convolution",
       {"lora_unet_out_2.lora_down.weight", "unet.conv_out.lora_A.weight"},
       out},
      {"modules of a text encoder's projection", {"lora_te2_text_projection.lora_down.weight"}, out},
      {"names of no layer that eri knows", {"surprise"}, "take them out of the file, or take a LoRA"},
  };
  Tensors every = tensors(kohya);
  for (const auto& [what, names, remedy] : rows) {
    Tensors all = tensors(kohya);
    for (const std::string& name : names) all[name] = every[name] = Tensor::zeros({2, 8});
    const std::string message = refusal(all);
    expect_part(message, ".safetensors: it has " + std::string(what));
    expect_part(message, " (" + listed(names) + "): " + remedy);
  }
  const std::string message = refusal(every);
  for (const auto& [what, names, remedy] : rows) expect_part(message, what);
  // A file of such modules alone.
  expect_part(refusal({{module + ".hada_w1_a", Tensor::zeros({2, 8})}}), "it has LoHa modules");
}

TEST_F(NamesInLoras, AnotherKindOfFileIsNamed) {
  expect_part(refusal({{"clip_g", Tensor::zeros({2, 4})}, {"clip_l", Tensor::zeros({2, 4})}}),
              "this is a textual inversion (an embedding), not a LoRA; give one with --lora that was trained on SDXL");
  expect_part(error_of([] { LoRA::from_safetensors("models/eri-tiny.safetensors", targets_); }),
              "models/eri-tiny.safetensors: this is an SDXL model, not a LoRA");
}

TEST_F(NamesInLoras, MixedIsRefused) {
  Tensors mixed = tensors(kohya), other = tensors(kohya_diffusers);
  const std::string first = rows_[0].name, second = kohya_diffusers(rows_[0]).module;
  for (const std::string ending : {".lora_down.weight", ".lora_up.weight", ".alpha"}) {
    mixed.erase(first + ending);
    mixed[second + ending] = other.at(second + ending);
  }
  const std::string message = refusal(mixed);
  expect_part(message, "two kinds of names are mixed");
  expect_part(message, "kohya's names with diffusers' block numbers (" + second);

  Tensors twice = tensors(kohya);
  twice[first + ".lora_A.weight"] = Tensor::zeros({3, 64});
  expect_part(refusal(twice), "is there twice");
}

// The counts are those that the programs' own code gave for these names of SDXL's modules.
TEST(Programs, LoadWhatTheirOwnCodeDoes) {
  std::vector<Row> rows = read_rows(TESTS_DIR "/lora/sdxl_modules.tsv");
  const size_t linear = rows.size();
  for (const Row& row : read_rows(TESTS_DIR "/lora/sdxl_conv_modules.tsv")) rows.push_back(row);
  using Counts = std::array<size_t, 4>;  // of the UNet's 722, the text encoders' 72 and 192, conv_dim's 66
  constexpr Counts all = {722, 72, 192, 66}, none = {}, no_attention = {162, 72, 192, 66}, unet = {722, 0, 0, 66};
  struct Line {
    const char* about;
    Scheme scheme;
    LoraNaming naming;
    std::array<Counts, 6> expected;  // ComfyUI, Forge, A1111, diffusers, sd-scripts, sd.cpp
  };
  const Line lines[] = {
      {"kohya", kohya, LoraNaming::kohya, {all, all, all, all, all, all}},
      {"kohya, diffusers' numbers",
       kohya_diffusers,
       LoraNaming::kohya_diffusers,
       {all, all, Counts{722, 72, 192, 65}, all, all, all}},
      {"PEFT", peft, LoraNaming::diffusers, {no_attention, no_attention, none, all, none, unet}},
      {"diffusers, old", diffusers_old, LoraNaming::diffusers, {all, all, none, all, none, unet}},
      {"diffusers, middle", diffusers_mid, LoraNaming::diffusers, {no_attention, no_attention, none, all, none, unet}},
      {"ComfyUI", comfyui, LoraNaming::comfyui, {all, unet, none, none, none, unet}},
      {"PEFT's save_pretrained", peft_saved, LoraNaming::peft, {none, none, none, none, none, none}},
  };
  for (const auto& [about, scheme, naming, expected] : lines) {
    for (const Program program : programs) {
      Counts counts{};
      for (size_t i = 0; i < rows.size(); ++i) {
        const std::string& name = rows[i].name;
        const size_t set = i >= linear ? 3 : rows[i].unet() ? 0 : name.starts_with("lora_te1_") ? 1 : 2;
        counts[set] += loads(program, {name, naming}, scheme(rows[i]).module);
      }
      EXPECT_EQ(counts, expected[static_cast<size_t>(program)]) << about << " in " << name_of(program);
    }
  }
}

TEST_F(NamesInLoras, DoesNotHideBadValues) {
  const std::string name = rows_[0].name;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Tensors all = tensors(kohya);
    all[name + ".lora_up.weight"] = Tensor::full(all[name + ".lora_up.weight"].shape(), bad);
    expect_part(refusal(all), name + ".lora_up.weight has values that are not finite");
  }
  Tensors all = tensors(kohya);
  all[name + ".alpha"] = Tensor::full({}, 0);
  expect_part(refusal(all), name + ".alpha is 0, which programs read differently");
  all[name + ".alpha"] = Tensor::full({}, std::numeric_limits<double>::quiet_NaN());
  expect_part(refusal(all), name + ".alpha is not finite: its training has diverged");
}

}  // namespace
}  // namespace eri
