// From end to end, each against the real thing: tools/integration_report.py makes a table of these tests. A line
// "figure: ..." is what the table quotes.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <iostream>

#include "eri/data/image_data_loader.h"
#include "eri/models/text_conditioning.h"
#include "eri/models/vae.h"
#include "eri/sampling/sdxl_sampler.h"
#include "eri/train/trainer.h"
#include "flame/autograd/tape.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "tests/io/files.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::Image;
using flame::Tensor;
using flame::testing::TemporaryFolder;

constexpr const char* model = "models/eri-tiny.safetensors";
constexpr const char* pictures = "examples/blueprint";

template <class... Parts>
void figure(const Parts&... parts) {
  std::cout << "figure: " << flame::text(parts...) << std::endl;
}

TrainConfig blueprint_config(const fs::path& output) {
  TrainConfig config;
  config.device = "cpu";
  config.pretrained_model_name_or_path = model;
  config.train_data_dir = pictures;
  config.resolution = {128, 128};
  config.output_dir = output;
  config.network_dim = config.network_alpha = 8;
  config.train_batch_size = 4;
  config.learning_rate = 4e-3;
  config.max_train_steps = 10;
  return config;
}

double relative_error(const std::vector<float>& got, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

TEST(Tensors, ProductOfRandomMatricesEqualsFloat64) {
  constexpr int64_t n = 1024;
  const Tensor a = Tensor::randn({n, n}), b = Tensor::randn({n, n});
  const float *x = a.data<float>(), *y = b.data<float>();
  std::vector<double> expected(n * n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < n; ++k) {
      for (int64_t j = 0; j < n; ++j) expected[i * n + j] += double{x[i * n + k]} * double{y[k * n + j]};
    }
  }
  const double error = relative_error(a.matmul(b).to_host<float>(), expected);
  figure("1024 x 1024 product, relative error ", error);
  EXPECT_LT(error, 1e-6);
}

TEST(Autograd, GradientOfSquaresIsTwiceTheInput) {
  flame::Tape tape;
  const Tensor x = Tensor::randn({10, 10}).requires_grad();
  const Tensor loss = (x * x).sum();
  const auto gradient = loss.backward()[x].to_host<float>(), values = x.to_host<float>();
  size_t exact = 0;
  for (size_t i = 0; i < values.size(); ++i) exact += gradient[i] == 2 * values[i];
  figure("d sum(x^2) / dx = 2x to the bit in ", exact, " of ", values.size(), " elements");
  EXPECT_EQ(exact, values.size());
}

TEST(DataLoader, BatchHoldsThePixelsOfTheFiles) {
  ImageDataLoader loader(pictures, {.width = 128, .height = 128, .batch_size = 4});
  const ImageBatch batch = loader.next();
  ASSERT_EQ(batch.pixels.shape(), flame::Shape({4, 3, 128, 128}));
  for (int64_t i = 0; i < 4; ++i) {
    const Image file = flame::decode_image(fs::path(pictures) / loader.dataset().samples()[batch.indices[i]].name);
    const float* pixels = batch.pixels.rows(i, 1).data<float>();
    for (int64_t p = 0; p < 128 * 128; ++p) {
      for (int64_t c = 0; c < 3; ++c) ASSERT_NEAR(pixels[c * 128 * 128 + p], file.rgb()[p * 3 + c] / 127.5 - 1, 1e-6);
    }
  }
  figure("batch ", batch.pixels.shape(), " of ", loader.dataset().size(), " pictures, all pixels as in the files");
}

TEST(TextEncoder, TurnsACaptionIntoIdsAndEmbeddings) {
  const ClipTokenizer tokenizer;
  const auto ids = tokenizer.encode("a photo of a cat");
  EXPECT_EQ(ids, (std::vector<int32_t>{320, 1125, 539, 320, 2368}));  // transformers' CLIPTokenizer
  const auto encode = [&](const char* text) {
    const auto chunk = caption_chunks(tokenizer.encode(text), 1, ClipTokenizer::kPadL).front();
    const Tensor tokens = Tensor::from(std::vector(chunk.ids.begin(), chunk.ids.end()), {1, 77});
    return CLIPTextEncoder::from_safetensors(model).encode(tokens).hidden;
  };
  const Tensor cat = encode("a photo of a cat");
  ASSERT_EQ(cat.shape(), flame::Shape({1, 77, 64}));
  for (const float value : cat.to_host<float>()) ASSERT_TRUE(std::isfinite(value));
  EXPECT_NE(cat.to_host<float>(), encode("a photo of a dog").to_host<float>());
  figure("'a photo of a cat' is ", ids.size(), " tokens, its embeddings are ", cat.shape());
}

TEST(Training, AStepMovesTheLoraAndNothingElse) {
  const TemporaryFolder folder;
  Trainer trainer(blueprint_config(folder / "out"));
  std::vector<Tensor> weights, copies;
  for (const LoraTarget& target : trainer.family().trained_targets()) {
    if (!target.adapter()) continue;
    weights.push_back(std::visit([](const auto& layer) { return layer.weight(); }, target.layer));
    copies.push_back(weights.back().clone());
  }
  std::map<std::string, std::vector<float>> before;
  for (const auto& parameter : trainer.parameters().parameters())
    before[parameter.name] = parameter.value.to_host<float>();

  trainer.step();  // at first every `up` is zero, so no gradient reaches a `down`
  trainer.step();
  size_t moved = 0;
  for (const auto& [name, values] : before) {
    const bool has_moved = trainer.parameters()[name].value.to_host<float>() != values;
    EXPECT_TRUE(has_moved) << name;
    moved += has_moved;
  }
  for (size_t i = 0; i < weights.size(); ++i)
    EXPECT_EQ(std::memcmp(weights[i].raw(), copies[i].raw(), copies[i].bytes()), 0);
  figure(moved, " of ", before.size(), " LoRA tensors moved, ", weights.size(), " weights under them did not");
}

TEST(Training, TenStepsGiveFiniteLossesAndALoraThatLoads) {
  const TemporaryFolder folder;
  Trainer trainer(blueprint_config(folder / "out"));
  double last = 0;
  for (int i = 0; i < 10; ++i) {
    last = trainer.step().loss;
    ASSERT_TRUE(std::isfinite(last));
  }
  trainer.save_lora(folder / "lora.safetensors");
  const LoRA lora = LoRA::from_safetensors(folder / "lora.safetensors");
  EXPECT_EQ(lora.ranks(), "8");
  EXPECT_EQ(lora.modules().size(), 192u);
  figure("10 steps, last loss ", last, ", a LoRA of ", lora.modules().size(), " modules and rank ", lora.ranks());
}

TEST(Models, TheAutoencoderGivesBackAPicture) {
  const VAE vae = VAE::from_safetensors(model);
  const Tensor picture = flame::to_tensor(flame::decode_image("tests/data/plain/owl.png"));
  const Tensor again = vae.decode(vae.encode(picture));
  ASSERT_EQ(again.shape(), picture.shape());
  const double mse = ((again - picture) * (again - picture)).mean().item();
  const double psnr = 10 * std::log10(4 / mse);  // from -1 to 1
  figure("an owl through the autoencoder and back: ", psnr, " dB");
  EXPECT_GT(psnr, 20);
}

TEST(Sampling, WritesAPictureOfTheSizeAskedFor) {
  const TemporaryFolder folder;
  SDXLSampler sampler(model);
  const Image image = sampler.sample({.prompt = "a red car", .options = {.width = 128, .height = 96}});
  image.save(folder / "car.png");
  const Image file = flame::decode_image(folder / "car.png");
  EXPECT_EQ(file.width(), 128);
  EXPECT_EQ(file.height(), 96);
  EXPECT_EQ(file, image);
  const auto [darkest, brightest] = std::minmax_element(file.rgb().begin(), file.rgb().end());
  EXPECT_GT(*brightest - *darkest, 64) << "a picture is not of one colour";
  figure("a PNG of ", file.width(), " x ", file.height(), " pixels");
}

}  // namespace
}  // namespace eri
