// What eri verify says of a file: silence of one that is ours, and a sentence for each thing that is not as it should
// be.
#include "eri/lora/verify.h"

#include <gtest/gtest.h>

#include "eri/lora/metadata.h"
#include "eri/lora/sdxl_lora.h"
#include "tests/io/files.h"

namespace eri {
namespace {

using flame::Metadata;
using flame::Tensor;
using flame::testing::error_of;
using flame::testing::TemporaryFolder;
using Tensors = std::map<std::string, Tensor>;
using Complaints = std::vector<std::string>;

const std::string kModule = "lora_unet_input_blocks_4_1_proj_in";

// A LoRA for eri-tiny as we write it, and files that differ from it in something.
class Verify : public testing::Test {
 protected:
  static void SetUpTestSuite() { targets_ = sdxl_lora_targets(Checkpoint("models/eri-tiny.safetensors"), true); }
  static void TearDownTestSuite() { targets_.clear(); }

  Verify() {
    random_lora(targets_, {.dim = 12, .alpha = 0.1, .conv_dim = 2}).save(path_);
    const flame::SafetensorsFile file(path_);
    for (const auto& [name, entry] : file.entries()) tensors_[name] = file.tensor(name).clone();
    metadata_ = file.metadata();
  }

  // With hashes that are right.
  Complaints complaints() {
    for (const auto& [key, hash] : lora_hashes(tensors_, metadata_)) metadata_[key] = hash;
    return of_file(metadata_);
  }
  Complaints of_file(const Metadata& metadata) const {
    const auto changed = folder_ / "changed.safetensors";
    flame::write_safetensors(changed, tensors_, metadata);
    return verify_lora(changed, targets_).complaints;
  }

  static inline LoraTargets targets_;
  const TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_ / "lora.safetensors";
  Tensors tensors_;
  Metadata metadata_;
};

TEST_F(Verify, FindsNothingInAFileOfOurs) {
  const LoraReport report = verify_lora(path_, targets_);
  EXPECT_EQ(report.complaints, Complaints());
  EXPECT_EQ(report.modules, 293);
  EXPECT_EQ(report.without_effect, 0);
  EXPECT_EQ(report.ranks, "2 to 12");
  for (const Loaded& loaded : report.loaded) EXPECT_EQ(loaded.modules, 293) << name_of(loaded.program);
  EXPECT_EQ(complaints(), Complaints());
}

TEST_F(Verify, NamesHashesThatAreWrong) {
  Metadata wrong = metadata_;
  wrong["sshs_model_hash"] = "0";
  wrong.erase("sshs_legacy_hash");
  EXPECT_EQ(of_file(wrong), (Complaints{"sshs_model_hash is 0, expected " + metadata_["sshs_model_hash"],
                                        "the metadata lacks sshs_legacy_hash"}));
  wrong = metadata_;
  wrong["ss_training_comment"] = "added later";  // which the short hash is of
  ASSERT_EQ(of_file(wrong).size(), 1);
  EXPECT_TRUE(of_file(wrong)[0].starts_with("sshs_legacy_hash is ")) << of_file(wrong)[0];
}

TEST_F(Verify, NamesMetadataThatContradictTheTensors) {
  metadata_["ss_network_dim"] = "16";
  metadata_["ss_network_alpha"] = "8.0";
  metadata_["ss_base_model_version"] = "sd_v1";
  metadata_.erase("modelspec.architecture");
  EXPECT_EQ(complaints(),
            (Complaints{"ss_base_model_version is sd_v1, expected sdxl_base_v1-0",
                        "the metadata lacks modelspec.architecture", "ss_network_dim is 16, expected 12",
                        "ss_network_alpha is 8.0, expected " + python_text(static_cast<float>(flame::f16(0.1f)))}));
}

TEST_F(Verify, NamesTensorsThatProgramsReadDifferently) {
  const std::string alpha = kModule + ".alpha", down = kModule + ".lora_down.weight", up = kModule + ".lora_up.weight";
  tensors_[alpha] = tensors_[alpha].view({1});
  EXPECT_EQ(complaints(), Complaints{alpha + " has shape [1], expected a scalar"});
  tensors_[alpha] = tensors_[alpha].view({});
  tensors_[down] = tensors_[down].to(flame::DType::f32);
  EXPECT_EQ(complaints(), Complaints{down + " is f32, expected f16"});
  tensors_[down] = Tensor::zeros({12, 8}).to(flame::DType::f16);
  EXPECT_EQ(complaints(), Complaints{kModule + " takes 8 to 64, the layer takes 64 to 64"});
}

TEST_F(Verify, NamesALoraWithoutEffect) {
  for (auto& [name, tensor] : tensors_) {
    if (name.ends_with(".lora_up.weight")) tensor = Tensor::zeros(tensor.shape()).to(flame::DType::f16);
  }
  EXPECT_EQ(complaints(), Complaints{"no module has any effect: all `up` are zero"});
}

TEST_F(Verify, NamesAHeaderThatIsTooLong) {
  metadata_["ss_tag_frequency"] = std::string(1 << 20, 'x');
  const Complaints found = complaints();
  ASSERT_EQ(found.size(), 1);
  EXPECT_TRUE(found[0].ends_with(" bytes, ComfyUI shows metadata of less than 1048576")) << found[0];
}

}  // namespace
}  // namespace eri
