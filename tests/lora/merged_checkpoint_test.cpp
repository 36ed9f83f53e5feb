#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "eri/lora/sdxl_lora.h"
#include "eri/models/synthetic.h"
#include "flame/ops/layout.h"
#include "tests/distance.h"
#include "tests/io/files.h"

// A base with a LoRA predicts what a checkpoint does that the same LoRA was added to, file against file.
namespace eri {
namespace {

using flame::DType;
using flame::SafetensorsFile;
using flame::Tensor;
using flame::testing::TemporaryFolder;
using Tensors = std::map<std::string, Tensor>;

constexpr double kStrength = 0.6;
// A merged weight is rounded once more; of that, 6e-8, these layers of random weights make some hundred times as much.
constexpr double kRounding = 2e-5;

// A layer that a LoRA may change, as models/eri-tiny-lora-modules*.tsv lists them: what it is called in a LoRA and in
// a single-file checkpoint, where [a:b] means rows of a tensor.
struct Row {
  std::string module, kind, checkpoint;
};

std::vector<Row> read_rows() {
  std::vector<Row> rows;
  for (const char* path : {"models/eri-tiny-lora-modules.tsv", "models/eri-tiny-lora-modules-conv.tsv"}) {
    std::ifstream file(path);
    std::string line;
    for (std::getline(file, line); std::getline(file, line);) {
      std::istringstream fields(line);
      std::string in, out, diffusers;
      Row& row = rows.emplace_back();
      fields >> row.module >> row.kind >> in >> out >> diffusers >> row.checkpoint;
    }
  }
  return rows;
}

// Of the kinds that are told apart here.
std::string group_of(const Row& row) {
  if (row.module.starts_with("lora_te")) return "text encoders";
  return row.kind == "linear" ? "linear" : "convolutions";
}

// Adds strength * alpha / rank * up down, in double, to the layer's weight.
void merge(const Row& row, const LoRA::Module& module, Tensors& checkpoint) {
  const size_t bracket = row.checkpoint.find('[');
  const bool is_part = bracket != std::string::npos;
  const int64_t first = is_part ? std::stoll(row.checkpoint.substr(bracket + 1)) : 0;
  Tensor& weight = checkpoint.at(is_part ? row.checkpoint.substr(0, bracket) : row.checkpoint + ".weight");
  const std::vector<float> up = in_file_layout(module.up).to_host<float>(),
                           down = in_file_layout(module.down).to_host<float>();
  const size_t rank = static_cast<size_t>(module.rank()), width = down.size() / rank;
  ASSERT_EQ(static_cast<size_t>(weight.numel() / weight.dim(0)), width) << row.module;
  std::vector<float> values = weight.to_host<float>();
  float* values_of_layer = values.data() + static_cast<size_t>(first) * width;
  for (size_t y = 0; y < up.size() / rank; ++y) {
    for (size_t x = 0; x < width; ++x) {
      double product = 0;
      for (size_t k = 0; k < rank; ++k) product += double{up[y * rank + k]} * down[k * width + x];
      float& value = values_of_layer[y * width + x];
      value = static_cast<float>(value + kStrength * module.alpha / static_cast<double>(rank) * product);
    }
  }
  weight = Tensor::from(values, weight.shape());
}

struct Model {
  explicit Model(const std::filesystem::path& path) : Model(Checkpoint(path)) {}
  explicit Model(const Checkpoint& checkpoint)
      : unet(UNet::from_checkpoint(checkpoint, flame::Device::cpu(), DType::f32)),
        clip_l(CLIPTextEncoder::from_checkpoint(checkpoint, TextPart::clip_l, flame::Device::cpu(), DType::f32)),
        clip_g(CLIPTextEncoder::from_checkpoint(checkpoint, TextPart::clip_g, flame::Device::cpu(), DType::f32)),
        targets(sdxl_lora_targets(unet, clip_l, clip_g)) {}

  // Of a text and two pictures: the texts' states, the pooled text, the UNet's output.
  Tensors predict() const {
    std::vector<int32_t> tokens(2 * 77, 49407);
    for (size_t i = 0; i < 12; ++i) tokens[i % 2 * 77 + i / 2] = i < 2 ? 49406 : 1000 * static_cast<int32_t>(i);
    const Tensor ids = Tensor::from(tokens, {2, 77});
    const Tensor hidden_l = clip_l.encode(ids, false).hidden;
    const auto [hidden_g, pooled] = clip_g.encode(ids);
    flame::Generator generator(1);
    const Tensor x = Tensor::randn({2, 4, 8, 12}, generator),
                 time_ids = Tensor::from(std::vector<float>{64, 96, 0, 0, 64, 96, 640, 960, 8, 0, 64, 96}, {2, 6});
    const std::vector<Tensor> states = {hidden_l, hidden_g};
    const Tensor t = Tensor::from(std::vector<int32_t>{400, 20}, {2});
    return {{"hidden_l", hidden_l},
            {"hidden_g", hidden_g},
            {"pooled", pooled},
            {"out", unet(x, t, flame::concat(states, 2), pooled, time_ids)}};
  }

  UNet unet;
  CLIPTextEncoder clip_l, clip_g;
  LoraTargets targets;
};

TEST(MergedCheckpoint, PredictsWhatBaseAndLoraDo) {
  const TemporaryFolder folder;
  const auto base_file = folder / "base.safetensors", merged_file = folder / "merged.safetensors",
             lora_file = folder / "lora.safetensors";
  write_synthetic_checkpoint(base_file, Geometry::load("models/eri-tiny.json"), 1, DType::f32);
  const Model base(base_file);
  const Tensors before = base.predict();
  const std::vector<Row> rows = read_rows();
  ASSERT_EQ(rows.size(), base.targets.size());
  const LoRA whole = random_lora(base.targets, {.dim = 3, .alpha = 1.5, .conv_dim = 2, .conv_alpha = 0.5, .seed = 3});

  for (const std::string group : {"linear", "convolutions", "text encoders", "all"}) {
    SCOPED_TRACE(group);
    LoRA::Modules modules;
    for (const Row& row : rows) {
      if (group == "all" || group_of(row) == group) modules[row.module] = whole.modules().at(row.module);
    }
    LoRA(modules).save(lora_file);
    const LoRA lora = LoRA::from_safetensors(lora_file, base.targets);
    ASSERT_EQ(lora.modules().size(), modules.size());

    Tensors checkpoint;
    {
      const SafetensorsFile file(base_file);
      for (const auto& [name, entry] : file.entries()) checkpoint[name] = file.tensor(name);
      for (const Row& row : rows) {
        if (lora.modules().contains(row.module)) merge(row, lora.modules().at(row.module), checkpoint);
      }
      flame::write_safetensors(merged_file, checkpoint);
    }
    const Tensors expected = Model(merged_file).predict();
    apply_loras(std::vector{std::pair{lora, kStrength}}, base.targets);
    double farthest = 0;
    for (const auto& [name, tensor] : base.predict()) {
      const double error = flame::distance(tensor, expected.at(name));
      EXPECT_LT(error, kRounding) << name;
      farthest = std::max(farthest, error);
    }
    const double moved = flame::distance(before.at("out"), expected.at("out"));
    EXPECT_GT(moved, 1e-2);
    std::cout << group << ": " << modules.size() << " modules move the prediction by " << moved
              << ", merged or not differs by " << farthest << "\n";
  }
}

}  // namespace
}  // namespace eri
