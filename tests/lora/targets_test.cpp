#include "eri/lora/targets.h"

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <set>

#include "eri/models/clip_text.h"
#include "eri/models/synthetic.h"
#include "eri/models/unet.h"
#include "eri/models/weight_names.h"

namespace eri {
namespace {

using flame::DType;
using flame::Scope;
using flame::Shape;

// Name, kind, inputs and outputs of a module, as the tables have them: derived from SDXL's architecture and equal to
// what sd-scripts makes.
using Row = std::array<std::string, 4>;
using Rows = std::set<Row>;

Rows read_table(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  Rows rows;
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    Row row;
    for (std::string& field : row) std::getline(fields, field, '\t');
    EXPECT_TRUE(rows.insert(row).second) << line;
  }
  return rows;
}

Rows joined(Rows a, const Rows& b) {
  a.insert(b.begin(), b.end());
  return a;
}

size_t count(const Rows& rows, std::string_view prefix) {
  return std::count_if(rows.begin(), rows.end(), [=](const Row& row) { return row[0].starts_with(prefix); });
}

std::string kind(int64_t kernel) {
  return kernel == 0 ? "linear" : "conv" + std::to_string(kernel) + "x" + std::to_string(kernel);
}

// The layers of a source by the shapes of its weights alone: full size needs no memory.
Rows rows_of(const flame::WeightSource& source, LoraPart part, LoraPreset preset) {
  Rows rows;
  for (const LoraSite& site : lora_sites(source, part, preset)) {
    const Shape shape = *source.find(site.path + ".weight");
    rows.insert({site.name, kind(site.kernel), std::to_string(shape[1]), std::to_string(shape[0])});
  }
  return rows;
}

Rows rows_of(const Geometry& geometry, LoraPreset preset) {
  const auto clip_g = with_our_names(std::make_shared<SyntheticCheckpoint>(geometry, 0, clip_g_prefix));
  return joined(joined(rows_of(SyntheticCheckpoint(geometry, 0, unet_prefix), LoraPart::unet, preset),
                       rows_of(SyntheticCheckpoint(geometry, 0, clip_l_prefix), LoraPart::clip_l, preset)),
                rows_of(*clip_g, LoraPart::clip_g, preset));
}

TEST(LoraTargets, OfSdxlAreThoseOfSdScripts) {
  const Rows linear = read_table(TESTS_DIR "/lora/sdxl_modules.tsv");
  EXPECT_EQ(count(linear, "lora_unet_"), 722);
  EXPECT_EQ(count(linear, "lora_te1_"), 72);
  EXPECT_EQ(count(linear, "lora_te2_"), 192);
  EXPECT_EQ(rows_of(Geometry(), LoraPreset::attn_mlp), linear);
  const Rows conv = read_table(TESTS_DIR "/lora/sdxl_conv_modules.tsv");
  EXPECT_EQ(conv.size(), 66);
  EXPECT_EQ(rows_of(Geometry(), LoraPreset::full), joined(linear, conv));
}

TEST(LoraTargets, OfAModelAreItsLayers) {
  const Geometry geometry = Geometry::load("models/eri-tiny.json");
  const flame::Device cpu = flame::Device::cpu();
  const SyntheticCheckpoint unet_weights(geometry, 0, unet_prefix), clip_l_weights(geometry, 0, clip_l_prefix);
  const auto clip_g_weights = with_our_names(std::make_shared<SyntheticCheckpoint>(geometry, 0, clip_g_prefix));
  const UNet unet(Scope(unet_weights, DType::f32, cpu));
  const CLIPTextEncoder clip_l(Scope(clip_l_weights, DType::f32, cpu), Activation::quick_gelu);
  const CLIPTextEncoder clip_g(Scope(*clip_g_weights, DType::f32, cpu), Activation::gelu);

  const auto rows = [&](LoraPreset preset) {
    Rows result;
    const auto add = [&](const LoraTargets& targets) {
      for (const LoraTarget& target : targets)
        result.insert({target.name, kind(target.kernel()), std::to_string(target.in()), std::to_string(target.out())});
    };
    add(lora_targets(unet, LoraPart::unet, preset));
    add(lora_targets(clip_l, LoraPart::clip_l, preset));
    add(lora_targets(clip_g, LoraPart::clip_g, preset));
    return result;
  };
  const Rows linear = read_table("models/eri-tiny-lora-modules.tsv");
  EXPECT_EQ(linear.size(), 228);
  EXPECT_EQ(rows(LoraPreset::attn_mlp), linear);
  EXPECT_EQ(rows(LoraPreset::full), joined(linear, read_table("models/eri-tiny-lora-modules-conv.tsv")));
}

}  // namespace
}  // namespace eri
