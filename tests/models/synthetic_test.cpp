#include "eri/models/synthetic.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>

#include "flame/io/safetensors.h"

namespace eri {
namespace {

using flame::DType;
using flame::Shape;
using flame::Tensor;

Geometry geometry(const std::string& name) { return Geometry::load(TESTS_DIR "/parity/geometries/" + name + ".json"); }

int64_t parameters(const Geometry& geometry, std::string_view prefix) {
  int64_t count = 0;
  for (const auto& [name, shape] : checkpoint_tensors(geometry)) {
    if (name.starts_with(prefix)) count += shape.numel();
  }
  return count;
}

TEST(Geometry, DefaultsToSdxl) {
  EXPECT_EQ(Geometry(), geometry("sdxl"));
  EXPECT_NE(Geometry(), geometry("tiny-a"));
  EXPECT_EQ(parameters(Geometry(), unet_prefix), 2567463684);
  EXPECT_EQ(parameters(Geometry(), clip_l_prefix), 123060480 + 77);  // with the position ids
  EXPECT_EQ(parameters(Geometry(), clip_g_prefix), 694659841);
  EXPECT_EQ(parameters(Geometry(), vae_prefix), 83653863);
  EXPECT_EQ(SyntheticCheckpoint(Geometry(), 1, unet_prefix).names().size(), 1680);
}

TEST(Geometry, SaysWhatIsWrongWithAFile) {
  EXPECT_THROW(Geometry::parse("{", "test"), flame::Error);
  EXPECT_THROW(Geometry::parse("{\"name\": \"x\"}", "test"), flame::Error);
  EXPECT_THROW(Geometry::load("no/such/geometry.json"), flame::Error);
}

struct Known {
  const char* name;
  uint64_t seed;
  std::array<uint32_t, 3> first;
  uint32_t last;
};

// The first three values from tests/parity/README.md, the last from its authors' program.
constexpr Known known_values[] = {
    {"model.diffusion_model.input_blocks.0.0.weight", 1, {0xbc6db598, 0xbbfe5f97, 0xba44e1f5}, 0x3ab253f3},
    {"model.diffusion_model.middle_block.1.transformer_blocks.0.norm1.weight",
     1,
     {0x3f6b7c46, 0x3f6a6a1c, 0x3f915e2b},
     0x3f97248d},
    {"conditioner.embedders.1.model.text_projection", 2, {0x3dd7a80c, 0x3e171257, 0x3d757182}, 0xbdc8e767},
};

TEST(SyntheticCheckpoint, GivesTheKnownAnswers) {
  for (const Known& known : known_values) {
    const Tensor tensor = SyntheticCheckpoint(geometry("tiny-a"), known.seed).read(known.name);
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(std::bit_cast<uint32_t>(tensor.data<float>()[i]), known.first[i]);
    EXPECT_EQ(std::bit_cast<uint32_t>(tensor.data<float>()[tensor.numel() - 1]), known.last) << known.name;
  }
}

TEST(SyntheticCheckpoint, APartHasTheValuesOfTheWhole) {
  const SyntheticCheckpoint whole(geometry("tiny-a"), 1), part(geometry("tiny-a"), 1, vae_prefix);
  const std::string name = "encoder.conv_in.weight";
  ASSERT_EQ(part.find(name), Shape({32, 3, 3, 3}));
  EXPECT_EQ(part.read(name).to_host<float>(), whole.read("first_stage_model." + name).to_host<float>());
  EXPECT_FALSE(part.find("input_blocks.0.0.weight"));
  EXPECT_THROW(part.read("no.such.tensor"), flame::Error);
}

TEST(SyntheticCheckpoint, IsTheSameForAnyNumberOfThreads) {
  const SyntheticCheckpoint checkpoint(geometry("tiny-a"), 1);
  const std::string name = "model.diffusion_model.out.2.weight",
                    large = "conditioner.embedders.1.model.text_projection";
  const int before = flame::threads();
  flame::set_threads(1);
  const auto one = checkpoint.read(name).to_host<float>(), one_large = checkpoint.read(large).to_host<float>();
  flame::set_threads(3);
  EXPECT_EQ(checkpoint.read(name).to_host<float>(), one);
  EXPECT_EQ(checkpoint.read(large).to_host<float>(), one_large);
  flame::set_threads(before);
}

TEST(SyntheticCheckpoint, AFileHasAllOfIt) {
  const auto path = std::filesystem::temp_directory_path() / ("synthetic_test-" + std::to_string(getpid()));
  for (const DType dtype : {DType::f32, DType::f16}) {
    write_synthetic_checkpoint(path, geometry("tiny-a"), 5, dtype);
    const flame::SafetensorsFile file(path);
    const SyntheticCheckpoint expected(geometry("tiny-a"), 5);
    EXPECT_EQ(file.entries().size(), expected.names().size());
    EXPECT_EQ(file.metadata(), (flame::Metadata{{"format", "pt"}}));
    for (const std::string& name : expected.names()) {
      const Tensor made = expected.read(name), read = file.tensor(name);
      const Tensor stored = made.dtype() == DType::i64 ? made : made.to(dtype);
      ASSERT_EQ(read.shape(), stored.shape()) << name;
      ASSERT_EQ(read.dtype(), stored.dtype()) << name;
      ASSERT_EQ(std::memcmp(read.raw(), stored.raw(), stored.bytes()), 0) << name;
    }
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace eri
