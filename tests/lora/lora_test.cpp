#include "eri/lora/lora.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "../nn/weight_map.h"
#include "eri/models/synthetic.h"
#include "eri/models/unet.h"
#include "flame/autograd/tape.h"
#include "flame/ops/conv.h"
#include "flame/ops/layout.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"

namespace eri {
namespace {

using flame::error_of;
using flame::Shape;
using flame::Tensor;

constexpr int64_t kIn = 24, kOut = 40;

// A linear layer and a strided 3x3 convolution, with names that a UNet's could have.
class Layers : public testing::Test {
 protected:
  Layers() {
    flame::Generator generator(5);
    const flame::WeightMap weights({{"block.proj_in.weight", Tensor::randn({kOut, kIn}, generator)},
                                    {"block.proj_in.bias", Tensor::randn({kOut}, generator)},
                                    {"block.op.weight", Tensor::randn({kOut, kIn, 3, 3}, generator)},
                                    {"block.op.bias", Tensor::randn({kOut}, generator)}});
    const flame::Scope scope(weights, flame::DType::f32, flame::Device::cpu());
    linear_.emplace(scope / "block" / "proj_in");
    conv_.emplace(scope / "block" / "op", 2, 1);
    targets_ = {{"lora_unet_block_proj_in", *linear_, LoraPart::unet, "block.proj_in"},
                {"lora_unet_block_op", *conv_, LoraPart::unet, "block.op"}};
    rows_ = Tensor::randn({6, kIn}, generator);
    picture_ = Tensor::randn({1, 6, 8, kIn}, generator);
  }

  LoRA random_lora(int64_t rank, double alpha, uint64_t seed) const {
    LoRA::Modules modules =
        new_lora(targets_, {.dim = rank, .alpha = alpha, .conv_dim = rank, .conv_alpha = alpha, .seed = seed})
            .modules();
    flame::Generator generator(seed + 100);
    for (auto& [name, module] : modules) module.up = Tensor::randn(module.up.shape(), generator);
    return LoRA(modules);
  }

  // The layers' outputs if strength * scale * up down is added to their weights.
  std::pair<Tensor, Tensor> merged(const std::vector<std::pair<LoRA, double>>& loras) const {
    Tensor matrix = linear_->weight(), kernel = conv_->weight();
    for (const auto& [lora, strength] : loras) {
      const LoRA::Module &of_linear = lora.modules().at(targets_[0].name),
                         &of_conv = lora.modules().at(targets_[1].name);
      const float scale = static_cast<float>(strength) * of_linear.scale();
      matrix = matrix + matmul(of_linear.up, of_linear.down) * scale;
      const int64_t rank = of_conv.rank();
      const Tensor product = matmul(of_conv.up.view({kOut, rank}), of_conv.down.view({rank, 9 * kIn}));
      kernel = kernel + product.view(kernel.shape()) * scale;
    }
    return {linear(rows_, matrix) + (*linear_)(Tensor::zeros({1, kIn})),
            conv2d(picture_, kernel, {}, 2, 1) + (*conv_)(Tensor::zeros({1, 6, 8, kIn}))};
  }

  static void expect_near(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.shape(), b.shape());
    for (int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(a.data<float>()[i], b.data<float>()[i], 2e-4) << i;
  }

  std::optional<flame::Linear> linear_;
  std::optional<flame::Conv2d> conv_;
  LoraTargets targets_;
  Tensor rows_, picture_;
};

TEST_F(Layers, ANewLoraChangesNothingAndIsKaimingUniform) {
  const std::vector<float> before = (*linear_)(rows_).to_host<float>(),
                           conv_before = (*conv_)(picture_).to_host<float>();
  const LoraNetwork network(targets_,
                            new_lora(targets_, {.dim = 16, .alpha = 8, .conv_dim = 4, .conv_alpha = 2, .seed = 3}));
  EXPECT_EQ((*linear_)(rows_).to_host<float>(), before);
  EXPECT_EQ((*conv_)(picture_).to_host<float>(), conv_before);
  EXPECT_EQ(linear_->adapter()->scale, 0.5f);
  for (const auto& [name, module] : network.lora().modules()) {
    const float bound = 1 / std::sqrt(static_cast<float>(module.down.numel() / module.rank()));
    double squares = 0;
    for (const float value : module.down.to_host<float>()) {
      ASSERT_LE(std::fabs(value), bound);
      squares += static_cast<double>(value) * value;
    }
    EXPECT_NEAR(std::sqrt(squares / static_cast<double>(module.down.numel())) / bound, 1 / std::sqrt(3.0), 0.03)
        << name;
    for (const float value : module.up.to_host<float>()) ASSERT_EQ(value, 0);
  }
  EXPECT_NE(new_lora(targets_, {.conv_dim = 1, .seed = 4}).modules().at(targets_[0].name).down.to_host<float>(),
            new_lora(targets_, {.conv_dim = 1, .seed = 5}).modules().at(targets_[0].name).down.to_host<float>());
}

TEST_F(Layers, TrainThroughTheFlatPack) {
  const LoraNetwork network(targets_, random_lora(2, 2, 1));
  const flame::ParameterPack& pack = network.parameters();
  EXPECT_EQ(pack.parameters().size(), 4);
  flame::GradientMap gradients;
  pack.bind(gradients);
  flame::Tape tape;
  tape.backward((*linear_)(rows_).sum() + (*conv_)(picture_).sum(), gradients);
  for (const auto& parameter : pack.parameters()) {
    double sum = 0;
    for (const float value : parameter.gradient.to_host<float>()) sum += std::fabs(value);
    EXPECT_GT(sum, 0) << parameter.name;
  }
  // A change of the flat buffer is a change of the layers and of what is saved.
  pack.values().fill(0);
  EXPECT_EQ(network.lora().modules().at(targets_[0].name).up.to_host<float>(), std::vector<float>(kOut * 2, 0.0f));
  expect_near((*linear_)(rows_), merged({}).first);
}

// A model of 16 bits on the CPU, from f32 factors and from their copy in its dtype.
TEST(UNet, TrainsALoraInF32BesideWeightsOf16Bits) {
  const flame::Device cpu = flame::Device::cpu();
  const SyntheticCheckpoint weights(Geometry::load("models/eri-tiny.json"), 0, unet_prefix);
  flame::Generator generator(1);
  const auto bf16 = [&](const flame::Shape& shape) { return Tensor::randn(shape, generator).to(flame::DType::bf16); };
  const Tensor x = Tensor::randn({1, 4, 16, 16}, generator), t = Tensor::from(std::vector<int64_t>{500}, {1});
  const Tensor context = bf16({1, 77, 192}), pooled = bf16({1, 128}), ids = Tensor::zeros({1, 6}) + 128.0f;
  const LoraOptions options = {.dim = 4, .alpha = 2, .conv_dim = 3, .conv_alpha = 3, .seed = 2};
  std::vector<std::vector<float>> outputs;
  std::vector<LoraNetwork> networks;
  for (const flame::DType compute : {flame::DType::f32, flame::DType::bf16}) {
    const UNet unet(flame::Scope(weights, flame::DType::bf16, cpu));
    const LoraTargets targets = lora_targets(unet, LoraPart::unet, LoraPreset::full);
    LoRA::Modules modules = new_lora(targets, options).modules();
    flame::Generator ups(3);
    for (auto& [name, module] : modules) module.up = Tensor::randn(module.up.shape(), ups) * 0.05f;
    const LoraNetwork& network = networks.emplace_back(targets, LoRA(modules), compute);
    flame::GradientMap gradients;
    network.parameters().bind(gradients);
    flame::Tape tape;
    const Tensor out = unet(x, t, context, pooled, ids).to(flame::DType::f32);
    outputs.push_back(out.to_host<float>());
    tape.backward((out * out).sum(), gradients);
  }
  EXPECT_EQ(outputs[0], outputs[1]);
  ASSERT_EQ(networks[0].lora().modules().size(), 257);
  for (const auto& parameter : networks[0].parameters().parameters()) {
    const std::vector<float> gradient = parameter.gradient.to_host<float>();
    EXPECT_EQ(gradient, networks[1].parameters()[parameter.name].gradient.to_host<float>()) << parameter.name;
    EXPECT_TRUE(std::any_of(gradient.begin(), gradient.end(), [](float g) { return g != 0; })) << parameter.name;
  }
}

TEST_F(Layers, AppliedLorasEqualMergedWeights) {
  const std::vector<std::pair<LoRA, double>> loras = {{random_lora(4, 2, 1), 0.7}, {random_lora(3, 3, 2), -0.4}};
  const auto [expected, expected_conv] = merged(loras);
  apply_loras(loras, targets_);
  expect_near((*linear_)(rows_), expected);
  expect_near((*conv_)(picture_), expected_conv);
  apply_loras(std::vector<std::pair<LoRA, double>>(), targets_);
  EXPECT_FALSE(linear_->adapter());
}

TEST_F(Layers, LinearFactorsMayBe1x1ConvolutionsInTheFile) {
  const LoRA lora = random_lora(4, 2, 1);
  LoRA::Modules modules = lora.modules();
  auto& [down, up, alpha] = modules.at(targets_[0].name);
  down = down.view({4, 1, 1, kIn});
  up = up.view({kOut, 1, 1, 4});
  const std::vector<std::pair<LoRA, double>> loras = {{LoRA(modules), 1}};
  apply_loras(loras, targets_);
  expect_near((*linear_)(rows_), merged({{lora, 1}}).first);
}

TEST_F(Layers, RefuseALoraThatDoesNotFitNamingTheModule) {
  LoRA::Modules modules = random_lora(4, 2, 1).modules();
  modules["lora_unet_elsewhere"] = modules.begin()->second;
  EXPECT_NE(error_of([&] { LoraNetwork(targets_, LoRA(modules)); }).find("lora_unet_elsewhere"), std::string::npos);
  modules.erase("lora_unet_elsewhere");
  modules.at(targets_[0].name).down = Tensor::zeros({4, kIn + 1});
  const std::string message = error_of([&] { LoraNetwork(targets_, LoRA(modules)); });
  EXPECT_NE(message.find(targets_[0].name), std::string::npos) << message;
  EXPECT_NE(message.find("[4, 25]"), std::string::npos) << message;
  EXPECT_FALSE(linear_->adapter());
}

TEST(UNet, SavesItsLora) {
  const SyntheticCheckpoint weights(Geometry::load("models/eri-tiny.json"), 0, unet_prefix);
  const UNet unet(flame::Scope(weights, flame::DType::f32, flame::Device::cpu()));
  const LoraTargets targets = lora_targets(unet, LoraPart::unet);
  const LoraNetwork network(targets, new_lora(targets, {.dim = 2, .alpha = 1, .seed = 9}));
  const auto path = std::filesystem::temp_directory_path() / ("lora_test-" + std::to_string(getpid()) + ".safetensors");
  unet.save_lora(path);
  const LoRA read = LoRA::from_safetensors(path);
  std::filesystem::remove(path);
  EXPECT_EQ(read.modules().size(), 192);
  EXPECT_EQ(read.ranks(), "2");
  const LoRA::Module& module = read.modules().at("lora_unet_middle_block_1_proj_in");
  EXPECT_EQ(module.alpha, 1);
  EXPECT_EQ(module.down.to_host<float>(), network.lora()
                                              .modules()
                                              .at("lora_unet_middle_block_1_proj_in")
                                              .down.to(flame::DType::f16)
                                              .to(flame::DType::f32)
                                              .to_host<float>());
}

}  // namespace
}  // namespace eri
