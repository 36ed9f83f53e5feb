// What goes wrong around a run is said before it costs anything, and loses nothing that was saved.
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>

#include "eri/lora/lora.h"
#include "eri/train/trainer.h"
#include "tests/io/as_nobody.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::testing::error_of;
using flame::testing::TemporaryFolder;

TrainConfig run_into(const fs::path& output) {
  TrainConfig config = tiny_run(output);
  config.network_dim = config.network_alpha = 8;
  config.max_train_steps = 3;
  return config;
}

std::string error_of_run(const TrainConfig& config) {
  return error_of([&] {
    Trainer trainer(config);
    trainer.run(false);
  });
}

void expect_parts(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(message.find(part), message.npos) << part << " is not in: " << message;
}

TEST(Faults, AFullDiskLosesNothingThatWasSaved) {
  const TemporaryFolder folder;
  if (::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=4m") != 0)
    GTEST_SKIP() << "mounting a small file system needs root: " << std::strerror(errno);
  TrainConfig config = run_into(folder.path());
  config.save_every_n_steps = 1;  // room for three LoRAs of 1 MB, not for a state of 6 MB
  const std::string message = error_of_run(config);
  EXPECT_EQ(LoRA::from_safetensors(folder / "lora-step00000001.safetensors").ranks(), "8");
  EXPECT_EQ(LoRA::from_safetensors(folder / "lora.safetensors").ranks(), "8");
  for (const std::string& name : flame::testing::names_in(folder.path()))
    EXPECT_FALSE(name.ends_with("-state")) << name;
  ::umount(folder.path().c_str());
  expect_parts(message, {"lora-state", "disk is full"});
}

TEST(Faults, AnOutputFolderWithoutPermissionIsFoundBeforeTraining) {
  const TemporaryFolder folder;
  fs::permissions(folder.path(), fs::perms::owner_all | fs::perms::others_exec | fs::perms::group_exec);
  TrainConfig config = run_into(folder / "out");
  const std::string message = flame::testing::error_as_nobody([&] { Trainer trainer(config); });
  expect_parts(message, {"output_dir", (folder / "out").string(), "Permission denied"});
}

struct Mistake {
  const char* key;
  std::string value;
  std::vector<std::string> says;
};

TEST(Faults, MistakesInARunAreNamed) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "empty");
  flame::testing::write_file(folder / "text.safetensors", "not a checkpoint");
  for (const auto& [key, value, says] : std::vector<Mistake>{
           {"pretrained_model_name_or_path", "nowhere.safetensors", {"nowhere.safetensors"}},
           {"pretrained_model_name_or_path", folder / "text.safetensors", {"text.safetensors"}},
           {"train_data_dir", folder / "empty", {(folder / "empty").string()}},
           {"train_data_dir", folder / "nowhere", {(folder / "nowhere").string(), "does not exist"}},
           {"resolution", "136", {"resolution", "multiples of 32"}},
           {"device", "gpu", {"gpu", "cpu"}},
       }) {
    TrainConfig config = run_into(folder / "out");
    set_value(config, *find_key(key), value);
    expect_parts(error_of([&] { Trainer trainer(config); }), says);
  }
}

TEST(Faults, ALoraIsNoBase) {
  const TemporaryFolder folder;
  TrainConfig config = run_into(folder / "out");
  {
    Trainer trainer(config);
    trainer.save_lora(folder / "lora.safetensors");
  }
  config.pretrained_model_name_or_path = folder / "lora.safetensors";
  expect_parts(error_of([&] { Trainer trainer(config); }), {"lora.safetensors", "LoRA"});
}

// Every LoRA that is saved is looked at as other programs will: what is wrong is said on the way, and ends the run.
TEST(Faults, ALoraThatIsSavedButNotRightIsNamed) {
  const TemporaryFolder folder;
  TrainConfig config = run_into(folder.path());
  config.lr_scheduler = "constant_with_warmup";
  config.lr_warmup_steps = 3;
  config.max_train_steps = 2;
  config.save_every_n_steps = 1;
  Trainer trainer(config);
  testing::internal::CaptureStderr();
  EXPECT_EQ(error_of([&] { trainer.run(false); }), "");  // the second step has a learning rate
  const std::string log = testing::internal::GetCapturedStderr();
  expect_parts(log, {"saved " + (folder / "lora-step00000001.safetensors").string(),
                     (folder / "lora-step00000001.safetensors").string() +
                         " changes nothing yet: the learning rate has been 0, or no step could be made",
                     "saved " + (folder / "lora.safetensors").string()});
  EXPECT_EQ(log.find("changes nothing", log.find("changes nothing") + 1), log.npos) << log;

  config.max_train_steps = 1;
  Trainer shorter(config);
  EXPECT_EQ(error_of([&] { shorter.run(false); }),
            (folder / "lora.safetensors").string() +
                " changes nothing yet: the learning rate has been 0, or no step could be made");
  EXPECT_TRUE(fs::exists(folder / "lora-state"));
}

TEST(Faults, AStepWithoutFiniteGradientsMovesNothing) {
  const TemporaryFolder folder;
  Trainer trainer(run_into(folder / "out"));
  trainer.step();
  const auto& parameter = trainer.parameters().parameters().front();
  parameter.value.fill(std::numeric_limits<double>::quiet_NaN());
  const auto before = trainer.parameters().values().to_host<float>();
  const StepResult result = trainer.step();
  EXPECT_TRUE(result.skipped);
  const auto after = trainer.parameters().values().to_host<float>();
  EXPECT_EQ(std::memcmp(before.data(), after.data(), before.size() * sizeof(float)), 0);
  const std::string message = error_of([&] { trainer.save_lora(folder / "lora.safetensors"); });
  expect_parts(message, {"cannot save", "lora_unet_"});
  EXPECT_FALSE(fs::exists(folder / "lora.safetensors"));
}

}  // namespace
}  // namespace eri
