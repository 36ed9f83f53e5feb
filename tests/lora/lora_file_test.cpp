#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "eri/lora/lora.h"
#include "eri/lora/metadata.h"
#include "eri/lora/sha256.h"
#include "flame/ops/layout.h"

namespace eri {
namespace {

using flame::Shape;
using flame::Tensor;

const std::string kLinear = "lora_unet_middle_block_1_proj_in", kConv = "lora_unet_input_blocks_1_0_in_layers_2";

// A path of its own for each test, removed at its end.
class LoraFile : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directory(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path path(const std::string& name = "reference") const { return folder_ / (name + ".safetensors"); }

 private:
  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("lora_file_test-" + std::to_string(getpid()));
};

// Fractions that F16 holds exactly; `shape` and order are the file's.
Tensor fractions(const Shape& shape, int64_t step) {
  const Tensor values = Tensor::empty(shape);
  for (int64_t i = 0; i < values.numel(); ++i) values.data<float>()[i] = static_cast<float>(i * step % 61 - 30) / 64;
  return values;
}

LoRA reference_lora() {
  return LoRA(
      {{kLinear, {fractions({4, 4096}, 7), fractions({130000, 4}, 11), 2}},
       {kConv,
        {flame::channels_last(fractions({2, 32, 3, 3}, 3)), flame::channels_last(fractions({64, 2, 1, 1}, 5)), 1.5}}});
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const flame::Error& error) {
    return error.what();
  }
  return "no error";
}

// Expected values: tests/reference/lora_file.py.
TEST_F(LoraFile, HasTheBytesOfSdScripts) {
  reference_lora().save(path(), {{"ss_learning_rate", python_text(1e-4)}, {"modelspec.title", "Reference"}});
  const flame::SafetensorsFile file(path());
  EXPECT_EQ(file.metadata().at("sshs_model_hash"), "0f24f7bde327b663a7d08ba6103a05adec1bb788fb3e585b29fc4e3dc3f6b1cc");
  EXPECT_EQ(file.metadata().at("sshs_legacy_hash"), "f0b7463b");
  const flame::Metadata as_base = base_model_metadata({path(), {}, {}, {}, {}});
  EXPECT_EQ(as_base.at("ss_new_sd_model_hash"), "84b551e82ab8ae4b57efca952c479590a5d72976c4daa6a321f2a9a55f4da2af");
  EXPECT_EQ(as_base.at("ss_sd_model_hash"), "3203d383");
  EXPECT_EQ(as_base.at("ss_sd_model_name"), "reference.safetensors");
}

TEST_F(LoraFile, IsReadBackAsItWas) {
  const LoRA lora = reference_lora();
  lora.save(path());
  const LoRA read = LoRA::from_safetensors(path());
  EXPECT_TRUE(read.warnings().empty());
  EXPECT_EQ(read.ranks(), "2 to 4");
  ASSERT_EQ(read.modules().size(), 2);
  for (const auto& [name, module] : lora.modules()) {
    EXPECT_EQ(read.modules().at(name).down.shape(), module.down.shape());
    EXPECT_EQ(read.modules().at(name).down.to_host<float>(), module.down.to_host<float>());
    EXPECT_EQ(read.modules().at(name).up.to_host<float>(), module.up.to_host<float>());
    EXPECT_EQ(read.modules().at(name).alpha, module.alpha);
  }
  EXPECT_EQ(flame::SafetensorsFile(path()).entries().at(kConv + kLoraDown).shape, Shape({2, 32, 3, 3}));
}

TEST_F(LoraFile, IsNotWrittenWithValuesThatF16LacksAndNamesThem) {
  for (const float bad : {70000.0f, -70000.0f, std::numeric_limits<float>::quiet_NaN()}) {
    const LoRA lora = reference_lora();
    lora.modules().at(kLinear).up.data<float>()[77] = bad;
    EXPECT_NE(error_of([&] { lora.save(path("bad")); }).find(kLinear + kLoraUp), std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(path("bad")));
  }
  EXPECT_NE(error_of([&] { LoRA().save(path("empty")); }).find("no modules"), std::string::npos);
}

TEST_F(LoraFile, IsRefusedWithAReason) {
  reference_lora().save(path());
  std::map<std::string, Tensor> good;
  const flame::SafetensorsFile file(path());
  for (const auto& [name, entry] : file.entries()) good[name] = file.tensor(name);
  const auto complaint = [&](const std::function<void(std::map<std::string, Tensor>&)>& damage) {
    auto tensors = good;
    damage(tensors);
    flame::write_safetensors(path("damaged"), tensors);
    return error_of([&] { LoRA::from_safetensors(path("damaged")); });
  };
  const auto says = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  says(complaint([](auto& t) {
         t["unet.mid_block.to_q.lora_A.weight"] = Tensor::zeros({4, 8});
       }),
       "unet.mid_block.to_q");
  says(complaint([](auto& t) { t["surprise"] = Tensor::zeros({1}); }), "surprise");
  says(complaint([](auto& t) { t[kLinear + ".dora_scale"] = Tensor::zeros({1, 4096}); }), "DoRA");
  says(complaint([](auto& t) { t.erase(kLinear + kLoraUp); }), kLinear + " has no lora_up");
  says(complaint([](auto& t) { t.erase(kLinear + kLoraDown); }), kLinear + " has no lora_down");
  says(complaint([](auto& t) { t["lora_unet_x.alpha"] = Tensor::zeros({}); }), "lora_unet_x.alpha");
  says(complaint([](auto& t) {
         t[kLinear + kLoraDown] = Tensor::zeros({3, 4096});
       }),
       kLinear + ": lora_down has rank 3");
  says(complaint([](auto& t) { t[kLinear + kLoraDown] = Tensor::zeros({4}); }), "2 or 4 dimensions");
  EXPECT_EQ(complaint([](auto&) {}), "no error");
}

TEST_F(LoraFile, WithoutAlphasHasScaleOneAndAWarning) {
  flame::write_safetensors(path(),
                           {{kLinear + kLoraDown, fractions({4, 8}, 7)}, {kLinear + kLoraUp, fractions({8, 4}, 3)}});
  const LoRA lora = LoRA::from_safetensors(path());
  EXPECT_EQ(lora.modules().at(kLinear).scale(), 1);
  ASSERT_EQ(lora.warnings().size(), 1);
  EXPECT_NE(lora.warnings()[0].find(kLinear), std::string::npos);
}

TEST_F(LoraFile, OfDifferentRanksSaysSo) {
  LoRA::Modules modules = reference_lora().modules();
  modules["lora_unet_middle_block_1_proj_out"] = {fractions({2, 8}, 1), fractions({8, 2}, 1), 2};
  LoRA(modules).save(path());
  EXPECT_EQ(flame::SafetensorsFile(path()).metadata().at("ss_network_dim"), "Dynamic");
  EXPECT_EQ(flame::SafetensorsFile(path()).metadata().at("ss_network_alpha"), "2.0");
}

TEST(PythonText, IsWhatStrGives) {
  EXPECT_EQ(python_text(8), "8.0");
  EXPECT_EQ(python_text(0), "0.0");
  EXPECT_EQ(python_text(1e-4), "0.0001");
  EXPECT_EQ(python_text(1e-5), "1e-05");
  EXPECT_EQ(python_text(0.1), "0.1");
  EXPECT_EQ(python_text(1732470000.25), "1732470000.25");
  EXPECT_EQ(python_text(1e16), "1e+16");
}

TEST(Sha256, GivesTheStandardsExamples) {
  Sha256 empty, abc;
  EXPECT_EQ(empty.hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  abc.add("abc", 3);
  EXPECT_EQ(abc.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace eri
