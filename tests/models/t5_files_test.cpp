#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "eri/models/t5_encoder.h"
#include "flame/io/safetensors.h"
#include "tests/io/files.h"

// The same weights as people have them make the same encoder; that its numbers are right is checked by the parity
// cases.
namespace eri {
namespace {

using flame::SafetensorsFile;
using flame::testing::TemporaryFolder;
using Tensors = std::map<std::string, Tensor>;

const std::string kWeights = TESTS_DIR "/parity/cases/t5/weights.safetensors";

Tensors weights() {
  const SafetensorsFile file(kWeights);
  Tensors tensors;
  for (const auto& [name, entry] : file.entries()) tensors[name] = file.tensor(name).clone();
  return tensors;
}

std::vector<float> states(const std::filesystem::path& path) {
  const Tensor ids = Tensor::from(std::vector<int32_t>{5, 80, 3, 17, 1, 42, 42, 9, 60, 1}, {2, 5});
  return T5Encoder::from_safetensors(path).encode(ids).to_host<float>();
}

TEST(T5Files, OfEveryLayoutAreTheSameEncoder) {
  const TemporaryFolder folder;
  const std::vector<float> expected = states(kWeights);
  const auto compare = [&](const char* about, const std::filesystem::path& path) {
    EXPECT_EQ(states(path), expected) << about;
  };

  Tensors all = weights();
  all["encoder.embed_tokens.weight"] = all.at("shared.weight");
  flame::write_safetensors(folder / "model.safetensors", all);
  compare("a folder, with the embedding twice, as transformers 4 saves it", folder.path());
  all.erase("shared.weight");
  flame::write_safetensors(folder / "embed_tokens.safetensors", all);
  compare("the embedding by its other name", folder / "embed_tokens.safetensors");

  Tensors wide;
  for (const auto& [name, tensor] : weights()) wide[name] = tensor.to(flame::DType::f32);
  flame::write_safetensors(folder / "f32.safetensors", wide);
  compare("f32", folder / "f32.safetensors");
}

TEST(T5Files, MayBeShards) {
  const TemporaryFolder folder;
  const Tensors all = weights();
  Tensors shards[2];
  nlohmann::json index;
  for (const auto& [name, tensor] : all) {
    const size_t which = shards[0].size() > all.size() / 2;
    shards[which][name] = tensor;
    index["weight_map"][name] = which ? "model-00002-of-00002.safetensors" : "model-00001-of-00002.safetensors";
  }
  flame::write_safetensors(folder / "model-00001-of-00002.safetensors", shards[0]);
  flame::write_safetensors(folder / "model-00002-of-00002.safetensors", shards[1]);
  std::ofstream(folder / "model.safetensors.index.json") << index;
  EXPECT_EQ(states(folder.path()), states(kWeights));
}

TEST(T5Files, OfOtherModelsAreRefused) {
  const TemporaryFolder folder;
  flame::write_safetensors(folder / "clip.safetensors", {{"text_model.final_layer_norm.weight", Tensor::ones({4})}});
  EXPECT_NE(flame::testing::error_of([&] { states(folder / "clip.safetensors"); }).find("this is no T5 text encoder"),
            std::string::npos);
}

}  // namespace
}  // namespace eri
