#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "eri/models/checkpoint.h"
#include "eri/models/text_conditioning.h"
#include "eri/models/unet.h"
#include "eri/models/vae.h"
#include "tests/io/files.h"

// What people give for an SDXL model, told by a few of its tensors: each is refused with a sentence that says what it
// is.
namespace eri {
namespace {

using namespace flame;
using flame::testing::error_of;
using flame::testing::TemporaryFolder;

struct Wrong {
  const char* name;
  std::map<std::string, Shape> tensors;
  const char *id, *sentence;
};

const std::string U = "model.diffusion_model.";
constexpr const char* kAttention = "1.transformer_blocks.0.attn2.to_k.weight";

const Wrong wrong_models[] = {
    {"KohyaLora", {{"lora_unet_out_2.lora_down.weight", {4, 4}}}, "lora", "a LoRA"},
    {"PeftLora", {{"unet.mid_block.attentions.0.proj_in.lora_A.weight", {4, 4}}}, "lora", "a LoRA"},
    {"DiffusersLora", {{"unet.mid_block.attn1.processor.to_q_lora.down.weight", {4, 4}}}, "lora", "a LoRA"},
    {"LoraForSdxl", {{"lora_te2_x.lora_down.weight", {4, 4}}}, "lora-sdxl", "a LoRA for SDXL"},
    {"LoraForSdxlByWidth",
     {{"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight", {4, 2048}}},
     "lora-sdxl",
     "a LoRA for SDXL"},
    {"LoraForSd1",
     {{"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", {4, 768}}},
     "lora-sd1",
     "a LoRA for Stable Diffusion 1"},
    {"LoraForSd2",
     {{"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight", {4, 1024}}},
     "lora-sd2",
     "a LoRA for Stable Diffusion 2"},
    {"LoraForFlux",
     {{"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", {4, 4}}},
     "lora-flux",
     "a LoRA for Flux"},
    {"LoraForSd3",
     {{"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", {4, 4}}},
     "lora-sd3",
     "a LoRA for Stable Diffusion 3"},
    {"LoHa", {{"lora_unet_out_2.hada_w1_a", {4, 4}}}, "lycoris", "a LyCORIS adapter (LoHa, LoKr or OFT)"},
    {"LoKr", {{"lycoris_out_2.lokr_w1", {4, 4}}}, "lycoris", "a LyCORIS adapter (LoHa, LoKr or OFT)"},
    {"Embedding", {{"clip_g", {2, 4}}, {"clip_l", {2, 4}}}, "embedding", "a textual inversion (an embedding)"},
    {"ControlNet", {{"control_model.input_blocks.0.0.weight", {4, 4, 3, 3}}}, "controlnet", "a ControlNet"},
    {"DiffusersControlNet",
     {{"controlnet_cond_embedding.conv_in.weight", {4, 3, 3, 3}}, {"down_blocks.0.resnets.0.conv1.weight", {4}}},
     "controlnet",
     "a ControlNet"},
    {"IpAdapter",
     {{"image_proj.proj.weight", {4, 4}}, {"ip_adapter.1.to_k_ip.weight", {4, 4}}},
     "ip-adapter",
     "an IP-Adapter"},
    {"Flux", {{U + "double_blocks.0.img_attn.qkv.weight", {4, 4}}}, "flux", "a Flux model"},
    {"FluxUNetAlone", {{"double_blocks.0.img_attn.qkv.weight", {4, 4}}}, "flux", "a Flux model"},
    {"DiffusersFlux", {{"single_transformer_blocks.0.attn.to_q.weight", {4, 4}}}, "flux", "a Flux model"},
    {"Sd3",
     {{U + "joint_blocks.0.x_block.attn.qkv.weight", {4, 4}}, {"text_encoders.clip_l.transformer.x", {4}}},
     "sd3",
     "a Stable Diffusion 3 model"},
    {"DiffusersSd3", {{"transformer_blocks.0.attn.add_q_proj.weight", {4, 4}}}, "sd3", "a Stable Diffusion 3 model"},
    {"SdxlInpainting",
     {{U + "input_blocks.0.0.weight", {320, 9, 3, 3}}, {U + "label_emb.0.0.weight", {4, 4}}},
     "inpainting",
     "a UNet for inpainting (9 channels go in, 4 into a base model's)"},
    {"DiffusersInpainting",
     {{"conv_in.weight", {320, 9, 3, 3}}, {"down_blocks.0.resnets.0.conv1.weight", {4}}},
     "inpainting",
     "a UNet for inpainting (9 channels go in, 4 into a base model's)"},
    {"Pix2Pix",
     {{U + "input_blocks.0.0.weight", {320, 8, 3, 3}}},
     "pix2pix",
     "a UNet that edits pictures (8 channels go in, 4 into a base model's)"},
    {"Refiner",
     {{"conditioner.embedders.0.model.ln_final.bias", {4}}, {U + "input_blocks.0.0.weight", {384, 4, 3, 3}}},
     "sdxl-refiner",
     "the SDXL refiner"},
    {"DiffusersRefiner",
     {{"conv_in.weight", {384, 4, 3, 3}},
      {"add_embedding.linear_1.weight", {4, 4}},
      {std::string("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"), {768, 1280}}},
     "sdxl-refiner",
     "the SDXL refiner"},
    {"Sd1",
     {{"cond_stage_model.transformer.text_model.x", {4}}, {U + "input_blocks.0.0.weight", {4, 4, 3, 3}}},
     "sd1",
     "a Stable Diffusion 1 model"},
    {"Sd1UNetAlone",
     {{"input_blocks.0.0.weight", {320, 4, 3, 3}}, {"input_blocks.1." + std::string(kAttention), {320, 768}}},
     "sd1",
     "a Stable Diffusion 1 model"},
    {"DiffusersSd1",
     {{"conv_in.weight", {320, 4, 3, 3}},
      {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", {320, 768}}},
     "sd1",
     "a Stable Diffusion 1 model"},
    {"Sd2",
     {{"cond_stage_model.model.ln_final.bias", {4}}, {U + "input_blocks.0.0.weight", {4, 4, 3, 3}}},
     "sd2",
     "a Stable Diffusion 2 model"},
    {"DiffusersSd2",
     {{"conv_in.weight", {320, 4, 3, 3}},
      {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", {320, 1024}}},
     "sd2",
     "a Stable Diffusion 2 model"},
    {"Edm",
     {{"edm_vpred.sigma_max", {}}, {U + "input_blocks.0.0.weight", {4, 4, 3, 3}}},
     "edm",
     "an SDXL model with EDM's parametrisation, which is not supported"},
    {"ScaledByRows",
     {{"label_emb.0.0.weight_scale", {4}}, {"label_emb.0.0.weight", {4, 4}}},
     "scaled",
     "a model whose weights have scales for blocks or rows of them, which is not supported"},
    {"T5",
     {{"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", {4, 4}}},
     "t5",
     "a T5 text encoder"},
    {"ClipAlone", {{"text_model.encoder.layers.0.mlp.fc1.weight", {4, 4}}}, "clip", "a text encoder"},
    {"ClipLAlone",
     {{"text_model.encoder.layers.0.x", {4}}, {"text_model.embeddings.token_embedding.weight", {2, 768}}},
     "clip-l",
     "the text encoder CLIP-L"},
    {"ClipGAlone",
     {{"transformer.resblocks.0.x", {4}}, {"token_embedding.weight", {2, 1280}}},
     "clip-g",
     "the text encoder CLIP-G"},
    {"OpenClipAlone", {{"transformer.resblocks.0.mlp.c_fc.weight", {4, 4}}}, "clip", "a text encoder"},
    {"VaeAlone", {{"decoder.conv_in.weight", {4, 4, 3, 3}}, {"decoder.up.0.block.0.norm1.bias", {4}}}, "vae", "a VAE"},
    {"DiffusersVaeAlone",
     {{"decoder.conv_in.weight", {4, 4, 3, 3}}, {"decoder.up_blocks.0.resnets.0.norm1.bias", {4}}},
     "vae",
     "a VAE"},
    {"VaeOfFlux",
     {{"decoder.conv_in.weight", {4, 16, 3, 3}}, {"decoder.up.0.block.0.norm1.bias", {4}}},
     "vae-other",
     "a VAE of another family than SDXL, whose latents have 4 channels"},
    {"Unknown", {{"something.weight", {4}}}, "unknown", "something unknown"},
};

class WrongModel : public ::testing::TestWithParam<Wrong> {
 protected:
  std::filesystem::path write(const std::string& name, const std::map<std::string, Shape>& shapes) const {
    std::map<std::string, Tensor> tensors;
    for (const auto& [tensor, shape] : shapes) tensors[tensor] = Tensor::zeros(shape);
    write_safetensors(folder_ / name, tensors);
    return folder_ / name;
  }
  TemporaryFolder folder_;
};

TEST_P(WrongModel, IsNamed) {
  const auto path = write("model.safetensors", GetParam().tensors);
  EXPECT_EQ(kind_of(WeightFiles(path).entries()).id, GetParam().id);
  const std::string error = error_of([&] { Checkpoint{path}; }),
                    start = path.string() + ": this is " + GetParam().sentence + ", not an SDXL base model; ";
  EXPECT_TRUE(error.starts_with(start)) << error;
  EXPECT_NE(error.find("give ", start.size() - 1), std::string::npos) << error;  // the remedy

  const std::string unet_error = error_of([&] { Checkpoint(ModelFiles{{}, path, {}, {}, {}}); });
  EXPECT_EQ(unet_error, path.string() + ": this is " + GetParam().sentence +
                            ", not the UNet of an SDXL model; give one with --unet, such as unet.safetensors");
}

INSTANTIATE_TEST_SUITE_P(, WrongModel, ::testing::ValuesIn(wrong_models),
                         [](const auto& info) { return std::string(info.param.name); });

class Model : public WrongModel {};

TEST_F(Model, PartsInEachOthersPlaceAreRefused) {
  const auto vae = write("vae.safetensors", {{"decoder.conv_in.weight", {4, 4, 3, 3}}, {"decoder.up.0.x", {4}}});
  const auto clip = write("clip.safetensors", {{"text_model.encoder.layers.0.mlp.fc1.weight", {4, 4}}});
  const auto t5 =
      write("t5.safetensors", {{"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", {4, 4}}});
  EXPECT_EQ(
      error_of([&] {
        Checkpoint(ModelFiles{{}, {}, clip, {}, {}});
      }),
      clip.string() +
          ": this is a text encoder, not the VAE of an SDXL model; give one with --vae, such as sdxl_vae.safetensors");
  EXPECT_EQ(error_of([&] {
              Checkpoint(ModelFiles{{}, {}, {}, vae, {}});
            }),
            vae.string() +
                ": this is a VAE, not the text encoder CLIP-L of an SDXL model; give one with --clip_l, such as "
                "clip_l.safetensors");
  EXPECT_NE(error_of([&] {
              Checkpoint(ModelFiles{{}, {}, {}, {}, t5});
            }).find("this is a T5 text encoder"),
            std::string::npos);
}

TEST_F(Model, SaysWhichPartIsMissingAndHowToGiveIt) {
  const std::map<std::string, Shape> unet = {{U + "input_blocks.0.0.weight", {4, 4, 3, 3}},
                                             {U + "label_emb.0.0.weight", {4, 4}}};
  const auto path = write("unet.safetensors", unet);
  const Checkpoint checkpoint(path);
  EXPECT_EQ(error_of([&] { checkpoint.vae(); }),
            path.string() +
                " has no VAE: give one with --vae, such as sdxl_vae.safetensors, or a base model that is complete");
  EXPECT_NE(error_of([&] { checkpoint.clip_g(); }).find("has no text encoder CLIP-G: give one with --clip_g"),
            std::string::npos);
}

// --- What is predicted ---

TEST_F(Model, SaysWhatItPredictsWithMarkers) {
  std::map<std::string, Shape> tensors = {{U + "input_blocks.0.0.weight", {4, 4, 3, 3}},
                                          {U + "label_emb.0.0.weight", {4, 4}}};
  const auto sentence = [&](std::optional<bool> v = {}, std::optional<bool> snr = {}) {
    return Checkpoint(ModelFiles{write("m.safetensors", tensors), {}, {}, {}, {}, v, snr}).parametrization().sentence();
  };
  EXPECT_EQ(sentence(), "predicts epsilon (nothing in the checkpoint says otherwise)");
  EXPECT_EQ(sentence(true, true), "predicts v (--v_parameterization), zero terminal SNR (--zero_terminal_snr)");
  tensors["ztsnr"] = {};
  EXPECT_EQ(sentence(), "predicts epsilon (nothing in the checkpoint says otherwise)");  // as ComfyUI
  tensors["v_pred"] = {};
  EXPECT_EQ(
      sentence(),
      "predicts v (marker tensor v_pred in m.safetensors), zero terminal SNR (marker tensor ztsnr in m.safetensors)");
  EXPECT_EQ(sentence({}, false),
            "predicts v (marker tensor v_pred in m.safetensors), no zero terminal SNR (--zero_terminal_snr false)");
  EXPECT_EQ(sentence(false), "predicts epsilon (--v_parameterization false)");
  EXPECT_NE(error_of([&] { sentence(false, true); }).find("needs a model that predicts v"), std::string::npos);
  tensors.erase("ztsnr");
  EXPECT_EQ(sentence(),
            "predicts v (marker tensor v_pred in m.safetensors), no zero terminal SNR "
            "(no marker tensor ztsnr in m.safetensors)");
}

TEST_F(Model, SaysWhatItPredictsInDiffusersScheduler) {
  std::filesystem::create_directories(folder_ / "unet");
  std::filesystem::create_directories(folder_ / "scheduler");
  write("unet/diffusion_pytorch_model.safetensors",
        {{"conv_in.weight", {4, 4, 3, 3}}, {"add_embedding.linear_1.weight", {4, 4}}, {"down_blocks.0.x", {4}}});
  const std::string config = (folder_ / "scheduler/scheduler_config.json").string();
  const auto sentence = [&](const char* json) {
    std::ofstream(config) << json;
    return Checkpoint(folder_.path()).parametrization().sentence();
  };
  EXPECT_EQ(sentence(R"({"prediction_type": "epsilon"})"), "predicts epsilon (prediction_type in " + config + ")");
  EXPECT_EQ(
      sentence(R"({"prediction_type": "v_prediction", "rescale_betas_zero_snr": true})"),
      "predicts v (prediction_type in " + config + "), zero terminal SNR (rescale_betas_zero_snr in " + config + ")");
  EXPECT_EQ(sentence(R"({"prediction_type": "v_prediction"})"),
            "predicts v (prediction_type in " + config + "), no zero terminal SNR (rescale_betas_zero_snr in " +
                config + ")");
  EXPECT_NE(error_of([&] { sentence(R"({"prediction_type": "sample"})"); }).find("prediction_type is 'sample'"),
            std::string::npos);
  EXPECT_NE(error_of([&] { sentence("{"); }).find(config), std::string::npos);
}

// --- Values ---

const std::string kModel = "models/eri-tiny.safetensors";

// A copy of the small base model with one value changed.
std::filesystem::path damaged(const TemporaryFolder& folder, const std::string& tensor, float value) {
  const SafetensorsFile file(kModel);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : file.entries()) tensors[name] = file.tensor(name);
  const Tensor changed = tensors.at(tensor).clone();
  changed.data<f16>()[changed.numel() - 1] = f16(value);
  tensors[tensor] = changed;
  write_safetensors(folder / "damaged.safetensors", tensors);
  return folder / "damaged.safetensors";
}

TEST_F(Model, NamesATensorThatIsNotFinite) {
  for (const float value : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    const std::string unet = U + "middle_block.1.transformer_blocks.1.ff.net.2.weight";
    EXPECT_EQ(error_of([&] { UNet::from_safetensors(damaged(folder_, unet, value)); }),
              "checkpoint " + (folder_ / "damaged.safetensors").string() + ": tensor " + unet +
                  " has values that are not finite in f32 (NaN or infinite): the file is damaged, or a merge that made "
                  "it went wrong; download it again");
    const std::string vae = "first_stage_model.decoder.conv_out.bias";
    EXPECT_NE(
        error_of([&] { VAE::from_safetensors(damaged(folder_, vae, value)); }).find("tensor " + vae + " has values"),
        std::string::npos);
    const std::string clip = "conditioner.embedders.1.model.transformer.resblocks.2.attn.in_proj_weight";
    EXPECT_NE(error_of([&] {
                TextEncoders::from_safetensors(damaged(folder_, clip, value));
              }).find("tensor " + clip + " (its v) has values"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace eri
