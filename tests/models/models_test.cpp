#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "eri/models/checkpoint.h"
#include "eri/models/text_conditioning.h"
#include "eri/models/unet.h"
#include "eri/models/vae.h"
#include "flame/autograd/tape.h"
#include "flame/ops/layout.h"
#include "flame/ops/pointwise.h"

// The small base model of models/; that the numbers are right is checked by the parity cases.
namespace eri {
namespace {

using namespace flame;

const std::string kModel = "models/eri-tiny.safetensors";

const UNet& unet() {
  static const UNet unet = UNet::from_safetensors(kModel);
  return unet;
}

struct Inputs {
  Tensor x, t, context, pooled, time_ids;
};

Inputs inputs(int64_t n) {
  Generator generator(7);
  return {.x = Tensor::randn({n, 4, 16, 16}, generator),
          .t = Tensor::full({n}, 500, DType::i64),
          .context = Tensor::randn({n, 77, unet().context_width()}, generator),
          .pooled = Tensor::randn({n, unet().pooled_width()}, generator),
          .time_ids = Tensor::full({n, 6}, 128)};
}

Tensor predict(const Inputs& in) { return unet()(in.x, in.t, in.context, in.pooled, in.time_ids); }

// A checkpoint's part with one tensor changed or taken away.
class Damaged : public WeightSource {
 public:
  Damaged(std::shared_ptr<const WeightSource> inner, std::string name, std::optional<Tensor> replacement = {})
      : inner_(std::move(inner)), name_(std::move(name)), replacement_(std::move(replacement)) {
    EXPECT_TRUE(inner_->find(name_)) << name_;
  }
  std::string describe() const override { return inner_->describe(); }
  std::vector<std::string> names() const override {
    std::vector<std::string> names = inner_->names();
    if (!replacement_) std::erase(names, name_);
    return names;
  }
  std::optional<Shape> find(const std::string& name) const override {
    if (name != name_) return inner_->find(name);
    return replacement_ ? std::optional(replacement_->shape()) : std::nullopt;
  }
  Tensor read(const std::string& name) const override { return name == name_ ? *replacement_ : inner_->read(name); }
  std::string full_name(const std::string& name) const override { return inner_->full_name(name); }

 private:
  std::shared_ptr<const WeightSource> inner_;
  std::string name_;
  std::optional<Tensor> replacement_;
};

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Scope scope_of(const WeightSource& source) { return Scope(source, DType::f32, Device::cpu()); }

std::string unet_error(const std::string& name, std::optional<Tensor> replacement = {}) {
  const Damaged source(Checkpoint(kModel).unet(), name, std::move(replacement));
  return error_of([&] { UNet unet(scope_of(source)); });
}

TEST(Checkpoint, HasTheKnownNumberOfParameters) {
  EXPECT_EQ(unet().parameter_count(), 9'643'844);
  EXPECT_EQ(AutoencoderKL::from_safetensors(kModel).parameter_count(), 1'732'679);
}

TEST(Checkpoint, GivesEveryLayerOfTheModuleListsItsName) {
  const TextEncoders text = TextEncoders::from_safetensors(kModel);
  std::map<std::string, Shape> layers;  // name -> in, out
  const auto list = [&](const std::string& prefix, const auto& entries) {
    for (const auto& [name, layer] : entries) {
      std::string key = prefix + name;
      std::replace(key.begin(), key.end(), '.', '_');
      layers.emplace(key, Shape{layer.in(), layer.out()});
    }
  };
  list("lora_unet_", unet().linears());
  list("lora_unet_", unet().convs());
  list("lora_te1_", text.clip_l.linears());
  list("lora_te2_", text.clip_g.linears());
  int rows = 0;
  for (const char* file : {"models/eri-tiny-lora-modules.tsv", "models/eri-tiny-lora-modules-conv.tsv"}) {
    std::ifstream table(file);
    std::string line, name, kind;
    int64_t in, out;
    for (std::getline(table, line); std::getline(table, line); ++rows) {
      std::istringstream(line) >> name >> kind >> in >> out;
      ASSERT_TRUE(layers.contains(name)) << name;
      EXPECT_EQ(layers.at(name), (Shape{in, out})) << name;
    }
  }
  EXPECT_EQ(rows, 228 + 65);
}

TEST(Checkpoint, ReadsEveryTensorOfItsParts) {
  const auto unread = [](const WeightSource& part, const Module& model) {
    const std::vector<std::string> names = part.names();
    std::set<std::string> left(names.begin(), names.end());
    for (const auto& [name, weight] : model.state_dict()) EXPECT_EQ(left.erase(name), 1u) << name;
    return left;
  };
  const Checkpoint checkpoint(kModel);
  const TextEncoders text = TextEncoders::from_safetensors(kModel);
  EXPECT_EQ(unread(*checkpoint.unet(), unet()), std::set<std::string>{});
  EXPECT_EQ(unread(*checkpoint.vae(), AutoencoderKL::from_safetensors(kModel)), std::set<std::string>{});
  EXPECT_EQ(unread(*checkpoint.clip_g(), text.clip_g), std::set<std::string>{});
  EXPECT_EQ(unread(*checkpoint.clip_l(), text.clip_l), std::set<std::string>{});
}

TEST(Checkpoint, NamesAMissingTensorInFullWithTheClosest) {
  const std::string path = "input_blocks.4.1.transformer_blocks.0.attn1.to_k";
  EXPECT_EQ(
      unet_error(path + ".weight"),
      "checkpoint " + kModel + ": there is no tensor model.diffusion_model." + path +
          ".weight; the closest is model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight");
  EXPECT_NE(unet_error("input_blocks.4.0.out_layers.3.bias").find("input_blocks.4.0.out_layers.3.bias; the closest is"),
            std::string::npos);
}

TEST(Checkpoint, NamesAMisshapenTensorInFull) {
  const std::string name = "output_blocks.3.1.proj_in.weight";
  EXPECT_EQ(unet_error(name, Tensor::zeros({64, 32})), "checkpoint " + kModel + ": tensor model.diffusion_model." +
                                                           name + " has shape [64, 32], expected [64, 64]");
  const Damaged source(Checkpoint(kModel).clip_g(), "text_model.encoder.layers.1.self_attn.k_proj.weight",
                       Tensor::zeros({128, 64}));
  EXPECT_EQ(error_of([&] { CLIPTextEncoder(scope_of(source), Activation::gelu); }),
            "checkpoint " + kModel +
                ": tensor conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight (its k) has shape "
                "[128, 64], expected [128, 128]");
}

TEST(OpenClip, TakesQKVFromRowsAndTurnsTheProjection) {
  const SafetensorsFile file(kModel);
  const std::string prefix = "conditioner.embedders.1.model.";
  const auto source = Checkpoint(kModel).clip_g();
  const Tensor fused = file.tensor(prefix + "transformer.resblocks.2.attn.in_proj_weight");
  const auto all = fused.to(DType::f32).to_host<float>();
  int part = 0;
  for (const char* name : {"q", "k", "v"}) {
    const Tensor own =
        source->read("text_model.encoder.layers.2.self_attn." + std::string(name) + "_proj.weight").to(DType::f32);
    ASSERT_EQ(own.shape(), (Shape{128, 128}));
    EXPECT_TRUE(
        std::equal(all.begin() + part * own.numel(), all.begin() + (part + 1) * own.numel(), own.data<float>()));
    ++part;
  }
  const auto stored = file.tensor(prefix + "text_projection").to(DType::f32).to_host<float>();
  const auto turned = source->read("text_projection.weight").to(DType::f32).to_host<float>();
  for (int i : {0, 5, 127})
    for (int j : {0, 64, 126}) EXPECT_EQ(turned[i * 128 + j], stored[j * 128 + i]);
}

// The frequency in which the two differ most, 14 units in the last place; sin(f) is f there.
TEST(Sinusoids, HaveTheFrequenciesOfTheDeviceNamed) {
  const Tensor one = Tensor::ones({1});
  const auto last_bits = [&](std::optional<Frequencies> which) {
    return Sinusoids(320, Device::cpu(), which)(one).to_host<float>()[160 + 147];
  };
  EXPECT_FLOAT_EQ(last_bits(Frequencies::as_on_cpu), 0x1.bb3b1ep-13f);  // torch.exp(-log(10000) * k / 160) on a CPU
  EXPECT_FLOAT_EQ(last_bits(Frequencies::as_on_gpu), 0x1.bb3b02p-13f);  // with k * (1 / 160)
  EXPECT_EQ(last_bits({}), last_bits(Frequencies::as_on_cpu));
}

TEST(UNet, KeepsNothingWithoutATape) {
  const Inputs in = inputs(1);
  predict(in);
  const size_t before = memory_use(Device::cpu()).current;
  const Tensor y = predict(in);
  EXPECT_EQ(y.shape(), in.x.shape());
  EXPECT_LT(memory_use(Device::cpu()).current - before, 2 * y.bytes());
}

TEST(UNet, RecordsNothingWhereNothingIsTrained) {
  Tape tape;
  predict(inputs(1));
  EXPECT_EQ(tape.size(), 0u);
  EXPECT_EQ(tape.bytes_kept(), 0u);
}

// The derivative along a random direction, from the gradients and from differences.
TEST(UNet, LetsGradientsReachTheText) {
  Inputs in = inputs(1);
  const Inputs plain = in;
  Generator generator(8);
  const Tensor dy = Tensor::randn(in.x.shape(), generator);
  Tape tape;
  in.context = in.context.requires_grad();
  in.pooled = in.pooled.requires_grad();
  GradientMap gradients;
  tape.backward(predict(in), dy, gradients);

  const auto along = [&](Tensor Inputs::*which) {
    const Tensor direction = Tensor::randn((plain.*which).shape(), generator);
    const auto value = [&](float step) {
      Inputs moved = plain;
      moved.*which = plain.*which + direction * step;
      double sum = 0;
      const auto y = predict(moved).to_host<float>(), weights = dy.to_host<float>();
      for (size_t i = 0; i < y.size(); ++i) sum += double{y[i]} * weights[i];
      return sum;
    };
    const double expected = (value(0.01f) - value(-0.01f)) / 0.02;
    const double actual = (gradients[in.*which] * direction).sum().item();
    EXPECT_NEAR(actual, expected, 0.02 * std::abs(expected) + 1e-4);
    EXPECT_GT(std::abs(expected), 1e-3);
  };
  along(&Inputs::context);
  along(&Inputs::pooled);
}

TEST(UNet, TakesOneSampleLikeABatchOfThem) {
  const Inputs all = inputs(3);
  const Tensor together = predict(all);
  const Inputs last = {all.x.rows(2, 1), all.t.rows(2, 1), all.context.rows(2, 1), all.pooled.rows(2, 1),
                       all.time_ids.rows(2, 1)};
  const auto a = together.rows(2, 1).to_host<float>(), b = predict(last).to_host<float>();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-4) << i;
}

TEST(UNet, SaysWhatItExpects) {
  Inputs in = inputs(1);
  in.x = Tensor::zeros({1, 4, 18, 16});
  EXPECT_NE(error_of([&] { predict(in); }).find("expected H and W in multiples of 4, got x of shape [1, 4, 18, 16]"),
            std::string::npos);
  in = inputs(1);
  in.context = Tensor::zeros({1, 77, 100});
  EXPECT_NE(error_of([&] { predict(in); }).find("expected a context of shape [1, T, 192], got [1, 77, 100]"),
            std::string::npos);
}

TEST(VAE, SamplesThePosterior) {
  const VAE vae = VAE::from_safetensors(kModel);
  Generator generator(9);
  const Tensor image = Tensor::rand({1, 3, 32, 24}, generator) * 2 - 1;
  const Tensor noise = Tensor::randn({1, 4, 4, 3}, generator);
  const auto [mean, logvar] = vae.posterior(image);
  const auto m = mean.to_host<float>(), v = logvar.to_host<float>(), n = noise.to_host<float>();
  const auto latent = vae.encode(image, noise).to_host<float>(), middle = vae.encode(image).to_host<float>();
  for (size_t i = 0; i < latent.size(); ++i) {
    EXPECT_NEAR(latent[i], (m[i] + std::exp(v[i] / 2) * n[i]) * 0.13025f, 1e-5);
    EXPECT_NEAR(middle[i], m[i] * 0.13025f, 1e-6);
  }
  EXPECT_EQ(vae.decode(Tensor::zeros({1, 4, 4, 3})).shape(), (Shape{1, 3, 32, 24}));
  EXPECT_EQ(vae.size_multiple(), 8);
}

TEST(TextEncoders, GiveTheUNetItsWidths) {
  const TextEncoders text = TextEncoders::from_safetensors(kModel);
  const std::vector<std::string> captions = {"blueprint of a cat", ""};
  const TextConditioning encoded = text.captions(captions);
  EXPECT_EQ(encoded.context.shape(), (Shape{2, 77, unet().context_width()}));
  EXPECT_EQ(encoded.pooled.shape(), (Shape{2, unet().pooled_width()}));
  EXPECT_EQ(text.captions(captions, 3).context.shape(), (Shape{2, 227, unet().context_width()}));
  EXPECT_EQ(CLIPTextEncoder::from_safetensors(kModel).width(), text.clip_l.width());
  EXPECT_FALSE(
      encode_captions(text.clip_l, caption_ids(text.tokenizer, 0, captions, 1, Device::cpu())).pooled.defined());
}

// Two prompts go through the UNet together, for guidance: attention does not see that one is there several times.
TEST(TextEncoders, RepeatTheShorterOfTwoPrompts) {
  const TextEncoders text = TextEncoders::from_safetensors(kModel);
  std::string words;
  for (int i = 0; i < 90; ++i) words += "word ";
  const std::vector<std::string> prompts = {"a cat", words, words + words};
  const TextConditioning encoded = text.prompts(prompts);
  ASSERT_EQ(encoded.context.shape(), (Shape{3, 6 * 77, unet().context_width()}));
  for (int64_t i = 0; i < 3; ++i) {
    const Tensor alone = text.prompts(std::span(prompts).subspan(static_cast<size_t>(i), 1)).context;
    const Tensor row = encoded.context.rows(i, 1);
    for (int64_t begin = 0; begin < row.dim(1); begin += alone.dim(1)) {
      const Tensor difference = row.narrow(1, begin, alone.dim(1)) - alone;
      EXPECT_LT(std::sqrt((difference * difference).sum().item() / (alone * alone).sum().item()), 1e-6);
    }
  }
}

// sd-scripts' chunks can lack an end where "!", whose id is the padding's, fills one up.
TEST(TextEncoders, PoolTheFirstPositionWhereThereIsNoEnd) {
  const TextEncoders text = TextEncoders::from_safetensors(kModel);
  std::vector<int32_t> ids(77, 0);
  const auto pooled = [&] { return text.clip_g.encode(Tensor::from(ids, {1, 77})).pooled.to_host<float>(); };
  const auto without = pooled();
  ids[0] = ClipTokenizer::kEnd;
  EXPECT_NE(pooled(), without);
  ids[0] = 0;
  ids[50] = ClipTokenizer::kEnd;  // position 0 does not see it
  EXPECT_NE(pooled(), without);
}

}  // namespace
}  // namespace eri
