#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "eri/models/checkpoint.h"
#include "eri/models/inventory.h"
#include "eri/models/synthetic.h"
#include "eri/models/text_conditioning.h"
#include "eri/models/unet.h"
#include "eri/models/vae.h"
#include "eri/models/weight_names.h"
#include "tests/io/files.h"

// The same weights in every layout that people have them in make the same models, to the bit.
namespace eri {
namespace {

using namespace flame;
using flame::testing::TemporaryFolder;

const Geometry& geometry() {
  static const Geometry tiny = Geometry::load("models/eri-tiny.json");
  return tiny;
}

using Tensors = std::map<std::string, Tensor>;

Tensors all_weights(const Checkpoint& checkpoint) {
  const Device cpu = Device::cpu();
  Tensors all;
  const auto add = [&](const std::string& part, const Module& model) {
    for (const auto& [name, weight] : model.state_dict()) all[part + "." + name] = weight;
  };
  add("unet", UNet::from_checkpoint(checkpoint, cpu, DType::f32));
  add("vae", VAE(checkpoint.vae(), DType::f32, cpu).network());
  add("clip_l", CLIPTextEncoder::from_checkpoint(checkpoint, TextPart::clip_l, cpu, DType::f32));
  add("clip_g", CLIPTextEncoder::from_checkpoint(checkpoint, TextPart::clip_g, cpu, DType::f32));
  return all;
}

class Layouts : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryFolder>();
    single_ = *folder_ / "single.safetensors";
    write_synthetic_checkpoint(single_, geometry(), 1, DType::f16);
    expected_ = all_weights(Checkpoint(single_));
  }
  static void TearDownTestSuite() {
    expected_.clear();
    folder_.reset();
  }

  static void expect_the_same(const Checkpoint& checkpoint) {
    const Tensors actual = all_weights(checkpoint);
    ASSERT_EQ(actual.size(), expected_.size());
    for (const auto& [name, weight] : expected_) {
      ASSERT_TRUE(actual.contains(name)) << name;
      const Tensor& other = actual.at(name);
      ASSERT_EQ(other.shape(), weight.shape()) << name;
      ASSERT_EQ(std::memcmp(other.raw(), weight.raw(), weight.bytes()), 0) << name;
    }
  }

  // The tensors of the single file whose names begin with `prefix`, the rest of the name given another one.
  template <class F>
  static Tensors part(const std::string& prefix, const F& renamed) {
    const SafetensorsFile file(single_);
    Tensors tensors;
    for (const auto& [name, entry] : file.entries()) {
      if (name.starts_with(prefix)) tensors[renamed(name.substr(prefix.size()))] = file.tensor(name);
    }
    return tensors;
  }

  static std::filesystem::path write(const std::string& name, const Tensors& tensors) {
    const auto path = *folder_ / name;
    write_safetensors(path, tensors);
    return path;
  }

  static std::unique_ptr<TemporaryFolder> folder_;
  static std::filesystem::path single_;
  static Tensors expected_;
};
std::unique_ptr<TemporaryFolder> Layouts::folder_;
std::filesystem::path Layouts::single_;
Tensors Layouts::expected_;

std::string same(const std::string& name) { return name; }

TEST_F(Layouts, OfDiffusersAreTheSameModel) {
  for (const char* layout : {"diffusers", "diffusers-fp16", "sharded"}) {
    SCOPED_TRACE(layout);
    const auto folder = *folder_ / layout;
    write_synthetic_checkpoint(folder, geometry(), 1, DType::f16, parse_layout(layout));
    expect_the_same(Checkpoint(folder));
  }
  EXPECT_TRUE(std::filesystem::exists(*folder_ / "diffusers-fp16" / "unet/diffusion_pytorch_model.fp16.safetensors"));
  EXPECT_EQ(WeightFiles(*folder_ / "sharded" / "unet").files().size(), 3u);
  EXPECT_EQ(WeightFiles(*folder_ / "sharded" / "text_encoder_2").files().size(), 2u);
}

TEST_F(Layouts, OfSeparateFilesAreTheSameModel) {
  const auto folder = *folder_ / "separate";
  write_synthetic_checkpoint(folder, geometry(), 1, DType::f16, ModelLayout::separate);
  const ModelFiles all = {{},
                          folder / "unet.safetensors",
                          folder / "sdxl_vae.safetensors",
                          folder / "clip_l.safetensors",
                          folder / "clip_g.safetensors"};
  expect_the_same(Checkpoint(all));
  ModelFiles unet_as_model = all;
  std::swap(unet_as_model.model, unet_as_model.unet);
  expect_the_same(Checkpoint(unet_as_model));
}

TEST_F(Layouts, OfSeparateFilesMayHaveDiffusersNames) {
  const auto folder = *folder_ / "parts-of-diffusers";
  write_synthetic_checkpoint(folder, geometry(), 1, DType::f16, ModelLayout::diffusers);
  expect_the_same(Checkpoint(ModelFiles{{},
                                        folder / "unet/diffusion_pytorch_model.safetensors",
                                        folder / "vae/diffusion_pytorch_model.safetensors",
                                        folder / "text_encoder/model.safetensors",
                                        folder / "text_encoder_2/model.safetensors"}));
  expect_the_same(Checkpoint(
      ModelFiles{single_, folder / "unet", folder / "vae", folder / "text_encoder", folder / "text_encoder_2"}));
}

TEST_F(Layouts, OfPartsUnderOtherNamesAreTheSameModel) {
  const auto vae_names = [](bool old) {
    return [map = diffusers_vae_names(std::ssize(geometry().vae.ch_mult), old)](const std::string& name) {
      return map.theirs(name)->name;
    };
  };
  const auto below = [](const std::string& prefix) { return [=](const std::string& name) { return prefix + name; }; };
  const std::string unet = "model.diffusion_model.", vae = "first_stage_model.",
                    clip_l = "conditioner.embedders.0.transformer.", clip_g = "conditioner.embedders.1.model.";
  const auto prefixed = write("unet-comfy.safetensors", part(unet, below(unet)));
  const auto old_vae = write("vae-old.safetensors", part(vae, vae_names(true)));
  const auto new_vae = write("vae-new.safetensors", part(vae, vae_names(false)));
  const auto open_clip_g = write("clip_g-open.safetensors", part(clip_g, same));
  const auto plain_l = write("clip_l-plain.safetensors", part(clip_l, same));
  const auto bare_l = write("clip_l-bare.safetensors", part(clip_l + "text_model.", same));
  expect_the_same(Checkpoint(ModelFiles{{}, prefixed, old_vae, plain_l, open_clip_g}));
  expect_the_same(Checkpoint(ModelFiles{{}, prefixed, new_vae, bare_l, single_}));  // a part of a whole file

  Tensors as_comfy_saves = part("model.", below("model."));
  as_comfy_saves.merge(part(vae, below(vae)));
  as_comfy_saves.merge(part(clip_l, below("text_encoders.clip_l.transformer.")));
  as_comfy_saves.merge(part(clip_g, below(clip_g)));
  expect_the_same(Checkpoint(write("comfy.safetensors", as_comfy_saves)));
}

// A safetensors file of bytes as they are, in any of the format's dtypes.
struct Raw {
  std::string dtype;
  Shape shape;
  std::string bytes;
};
void write_raw(const std::filesystem::path& path, const std::map<std::string, Raw>& tensors) {
  nlohmann::json header;
  std::string data;
  for (const auto& [name, raw] : tensors) {
    const std::vector<int64_t> shape(raw.shape.begin(), raw.shape.end());
    header[name] = {
        {"dtype", raw.dtype}, {"shape", shape}, {"data_offsets", {data.size(), data.size() + raw.bytes.size()}}};
    data += raw.bytes;
  }
  const std::string json = header.dump();
  const uint64_t length = json.size();
  flame::testing::write_file(path, std::string(reinterpret_cast<const char*>(&length), sizeof length) + json + data);
}

// The single file's tensors in another precision, each value given by its bits in f16.
template <class F>
std::map<std::string, Raw> stored_as(const std::string& dtype, const std::filesystem::path& single, const F& bytes_of) {
  const SafetensorsFile file(single);
  std::map<std::string, Raw> raw;
  for (const auto& [name, entry] : file.entries()) {
    if (entry.dtype != DType::f16) continue;  // position_ids
    Raw& tensor = raw[name] = {dtype, entry.shape, ""};
    const Tensor stored = file.tensor(name);
    const auto* values = reinterpret_cast<const f16*>(stored.raw());
    for (int64_t i = 0; i < stored.numel(); ++i) tensor.bytes += bytes_of(values[i]);
  }
  return raw;
}

template <class T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

TEST_F(Layouts, OfWiderPrecisionsAreTheSameModel) {
  const auto f32 = *folder_ / "f32.safetensors", f64 = *folder_ / "f64.safetensors";
  write_raw(f32, stored_as("F32", single_, [](f16 value) { return bytes_of(static_cast<float>(value)); }));
  expect_the_same(Checkpoint(f32));
  write_raw(f64, stored_as("F64", single_, [](f16 value) { return bytes_of(double{static_cast<float>(value)}); }));
  expect_the_same(Checkpoint(f64));
}

// What the bits s eeee mmm stand for; NaN is not among them.
float e4m3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const float size = exponent ? std::ldexp(8.0f + static_cast<float>(mantissa), exponent - 10)
                              : std::ldexp(static_cast<float>(mantissa), -9);
  return code & 0x80 ? -size : size;
}
uint8_t upper_half(f16 value) { return static_cast<uint8_t>(value.bits >> 8); }

// Each in a file of its own precision and in one of f32 that has the same values. F8_E5M2 is the upper half of an f16,
// BF16 that of an f32; for F8_E4M3 any bits will do.
TEST_F(Layouts, OfNarrowPrecisionsAreTheModelOfTheirValues) {
  struct Narrow {
    std::string dtype;
    std::string (*bytes)(f16);
    float (*value)(f16);
  };
  const Narrow all[] = {
      {"F8_E5M2", [](f16 x) { return bytes_of(upper_half(x)); },
       [](f16 x) { return x.bits &= 0xFF00, static_cast<float>(x); }},
      {"F8_E4M3", [](f16 x) { return bytes_of(upper_half(x)); }, [](f16 x) { return e4m3(upper_half(x)); }},
      {"BF16",
       [](f16 x) { return bytes_of(static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(x)) >> 16)); },
       [](f16 x) { return std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(x)) & 0xFFFF0000); }},
  };
  for (const auto& [dtype, bytes, value] : all) {
    SCOPED_TRACE(dtype);
    const auto narrow = *folder_ / (dtype + ".safetensors"), wide = *folder_ / (dtype + "-as-f32.safetensors");
    write_raw(narrow, stored_as(dtype, single_, bytes));
    write_raw(wide, stored_as("F32", single_, [&](f16 x) { return bytes_of(value(x)); }));
    const Tensors expected = all_weights(Checkpoint(wide)), actual = all_weights(Checkpoint(narrow));
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [name, weight] : expected)
      ASSERT_EQ(std::memcmp(actual.at(name).raw(), weight.raw(), weight.bytes()), 0) << name;
    EXPECT_EQ(inventory_of(narrow).parts.at("UNet").precisions, (std::map<std::string, int64_t>{{dtype, 9'643'844}}));
  }
}

// ComfyUI's two ways of saying by what a weight's numbers in F8 are to be multiplied.
TEST_F(Layouts, OfScaledF8AreTheModelOfTheirProducts) {
  const auto e4m3_bytes = [](f16 x) { return bytes_of(upper_half(x)); };
  for (const auto& [scale_ending, input_ending] :
       {std::pair{".scale_weight", ".scale_input"}, {".weight_scale", ".input_scale"}}) {
    SCOPED_TRACE(scale_ending);
    std::map<std::string, Raw> scaled = stored_as("F8_E4M3", single_, e4m3_bytes),
                               products =
                                   stored_as("F32", single_, [](f16 x) { return bytes_of(e4m3(upper_half(x))); });
    int count = 0;
    for (const auto& [name, raw] : std::map<std::string, Raw>(scaled)) {
      if (!name.ends_with(".weight") || raw.shape.rank() != 2) continue;
      const float scale = 0.3f + 0.01f * static_cast<float>(++count);
      const std::string stem = name.substr(0, name.size() - std::string(".weight").size());
      scaled[stem + scale_ending] = {"F32", count % 2 ? Shape{} : Shape{1}, bytes_of(scale)};
      scaled[stem + input_ending] = {"F32", {}, bytes_of(2.0f)};
      std::string& bytes = products.at(name).bytes;
      for (size_t at = 0; at < bytes.size(); at += sizeof(float)) {
        float value;
        std::memcpy(&value, bytes.data() + at, sizeof value);
        value *= scale;
        std::memcpy(bytes.data() + at, &value, sizeof value);
      }
    }
    scaled["scaled_fp8"] = {"F8_E4M3", {2}, std::string(2, '\0')};
    const auto file = *folder_ / "scaled.safetensors", wide = *folder_ / "products.safetensors";
    write_raw(file, scaled);
    write_raw(wide, products);
    const Tensors expected = all_weights(Checkpoint(wide)), actual = all_weights(Checkpoint(file));
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [name, weight] : expected) {
      const Tensor found = actual.at(name).to(DType::f32);
      ASSERT_EQ(std::memcmp(found.raw(), weight.raw(), weight.bytes()), 0) << name;
    }
    const Inventory inventory = inventory_of(file);
    EXPECT_EQ(inventory.kind.id, "sdxl");
    EXPECT_EQ(inventory.parts.at("UNet").parameters, 9'643'844);
    EXPECT_GT(inventory.parts.at("UNet").precisions.at("F8_E4M3 scaled"), 4'000'000);
  }
}

TEST_F(Layouts, AreReplacedByTheirParts) {
  Tensors tensors = part("first_stage_model.", same);
  tensors["decoder.conv_out.bias"] = Tensor::full({3}, 7).to(DType::f16);
  const auto vae = write("vae-other.safetensors", tensors);
  const Checkpoint checkpoint(ModelFiles{single_, {}, vae, {}, {}});
  EXPECT_EQ(checkpoint.vae()->read("decoder.conv_out.bias").to(DType::f32).to_host<float>(),
            (std::vector<float>{7, 7, 7}));
  EXPECT_EQ(checkpoint.unet()->describe(), single_);
  EXPECT_EQ(checkpoint.vae()->describe(), vae);
}

TEST_F(Layouts, AreCounted) {
  const auto folder = *folder_ / "sharded";  // ctest runs each test in a process of its own
  write_synthetic_checkpoint(folder, geometry(), 1, DType::f16, ModelLayout::sharded);
  for (const auto& [path, files, clip_g] : {std::tuple{single_, 1u, 6'945'537}, {folder, 7u, 6'945'536}}) {
    const Inventory inventory = inventory_of(path);
    EXPECT_EQ(inventory.kind.id, "sdxl");
    EXPECT_EQ(inventory.files.size(), files);
    EXPECT_EQ(inventory.parts.at("UNet").parameters, 9'643'844);
    EXPECT_EQ(inventory.parts.at("VAE").parameters, 1'732'679);
    EXPECT_EQ(inventory.parts.at("text encoder CLIP-L").parameters, 3'317'120);
    EXPECT_EQ(inventory.parts.at("text encoder CLIP-G").parameters, clip_g);  // a single file has logit_scale
    EXPECT_EQ(inventory.whole.precisions, (std::map<std::string, int64_t>{{"F16", inventory.whole.parameters}}));
    EXPECT_TRUE(inventory.parametrization.starts_with("predicts epsilon"));
    EXPECT_EQ(inventory.metadata.at("format"), "pt");
  }
  EXPECT_EQ(inventory_of(folder / "vae").kind.id, "vae");
  EXPECT_EQ(inventory_of(folder / "unet").parts.at("UNet").tensors, 618);
}

// Block by block what diffusers' own converters give: tests/reference/weight_names.py.
TEST(DiffusersNames, AreThoseOfDiffusers) {
  std::ifstream table(TESTS_DIR "/models/diffusers_names.tsv");
  std::string line, part, single_file, diffusers;
  std::vector<std::array<std::string, 3>> rows;
  std::vector<std::string> unet_ours, unet_theirs;
  for (std::getline(table, line); std::getline(table, line);) {
    std::istringstream(line) >> part >> single_file >> diffusers;
    rows.push_back({part, single_file, diffusers});
    if (part == "unet") unet_ours.push_back(single_file), unet_theirs.push_back(diffusers);
  }
  ASSERT_EQ(rows.size(), SyntheticCheckpoint(geometry(), 0, unet_prefix).names().size() +
                             SyntheticCheckpoint(geometry(), 0, vae_prefix).names().size());
  const NameMap from_ours = diffusers_unet_names(UNetLevels::of_single_file(unet_ours)),
                from_theirs = diffusers_unet_names(UNetLevels::of_diffusers(unet_theirs)),
                vae = diffusers_vae_names(std::ssize(geometry().vae.ch_mult));
  for (const auto& [which, ours, theirs] : rows) {
    for (const NameMap* map : which == "unet" ? std::vector{&from_ours, &from_theirs} : std::vector{&vae}) {
      EXPECT_EQ(map->theirs(ours).value_or(Place{}).name, theirs);
      EXPECT_EQ(map->ours(theirs), std::vector{ours});
    }
  }
}

// Shards and variants of wrong or no use.

TEST_F(Layouts, NameTheShardThatIsMissingOrCutShort) {
  const auto folder = *folder_ / "damaged";
  write_synthetic_checkpoint(folder, geometry(), 1, DType::f16, ModelLayout::sharded);
  const auto unet = folder / "unet", shard = unet / "diffusion_pytorch_model-00002-of-00003.safetensors";
  const auto error = [&] { return flame::testing::error_of([&] { Checkpoint{folder}; }); };

  const auto bytes = std::filesystem::file_size(shard);
  std::filesystem::resize_file(shard, bytes - 100);
  EXPECT_TRUE(error().starts_with(shard.string() + ": the file is cut short")) << error();
  std::filesystem::remove(shard);
  EXPECT_EQ(error(), (unet / "diffusion_pytorch_model.safetensors.index.json").string() +
                         ": of its 3 shards there is no diffusion_pytorch_model-00002-of-00003.safetensors beside it; "
                         "download what is missing");
  write_safetensors(shard, {{"other", Tensor::zeros({1})}});
  EXPECT_NE(
      error().find("should be in diffusion_pytorch_model-00002-of-00003.safetensors, which has none of this name"),
      std::string::npos)
      << error();
  std::ofstream(unet / "diffusion_pytorch_model.safetensors.index.json") << "{}";
  EXPECT_NE(error().find("not an index of shards"), std::string::npos) << error();
}

TEST_F(Layouts, SayWhatIsNoWholeModel) {
  const auto folder = *folder_ / "parts";
  write_synthetic_checkpoint(folder, geometry(), 1, DType::f16, ModelLayout::separate);
  const auto clip_l = folder / "clip_l.safetensors", clip_g = folder / "clip_g.safetensors";
  const auto error = [](const ModelFiles& files) { return flame::testing::error_of([&] { Checkpoint{files}; }); };
  EXPECT_EQ(error({single_, {}, {}, clip_g, clip_l}),
            clip_l.string() + ": this text encoder has a width of 64, the UNet in " + single_.string() +
                " reads one of 128 beside CLIP-L; --clip_l and --clip_g are each other's");
  EXPECT_NE(error({single_, {}, {}, {}, clip_l}).find("; give the UNet's own"), std::string::npos);
  const auto shard = folder / "model-00002-of-00003.safetensors";
  std::filesystem::copy_file(folder / "unet.safetensors", shard);
  EXPECT_EQ(error({shard, {}, {}, {}, {}}),
            shard.string() + ": this is one of several shards of a model; give the folder that they are in");
}

TEST_F(Layouts, SayWhatAFolderWithoutWeightsHas) {
  const auto folder = *folder_ / "pickles";
  std::filesystem::create_directories(folder / "unet");
  const auto error = [&] { return flame::testing::error_of([&] { Checkpoint{folder}; }); };
  EXPECT_NE(error().find("pickles/unet: there are no weights: expected diffusion_pytorch_model.safetensors"),
            std::string::npos)
      << error();
  std::ofstream(folder / "unet/diffusion_pytorch_model.bin") << "x";
  EXPECT_NE(error().find("the weights are in PyTorch's format (diffusion_pytorch_model.bin)"), std::string::npos);
  std::filesystem::remove_all(folder / "unet");
  EXPECT_NE(error().find("there is no unet/"), std::string::npos) << error();
  std::ofstream(folder / "model_index.json") << R"({"_class_name": "FluxPipeline"})";
  EXPECT_NE(error().find("its model_index.json says \"FluxPipeline\""), std::string::npos) << error();
}

}  // namespace
}  // namespace eri
