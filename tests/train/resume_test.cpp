// A resumed run is the run that was interrupted, bit for bit, whatever interrupted it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>

#include "eri/train/trainer.h"
#include "flame/io/safetensors.h"
#include "tests/io/files.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::testing::TemporaryFolder;

TrainConfig short_run(const fs::path& output, int64_t steps) {
  TrainConfig config = tiny_run(output);
  config.learning_rate = 4e-3;
  config.train_batch_size = 2;
  config.gradient_accumulation_steps = 2;
  config.lr_scheduler = "cosine";
  config.max_train_steps = steps;
  return config;
}

std::string data_of(const fs::path& file) {
  const flame::SafetensorsFile lora(file);
  return {reinterpret_cast<const char*>(lora.data()), lora.data_bytes()};
}

// `eri train` with this configuration, its log going to `output`.
pid_t start(const TrainConfig& config, const fs::path& output) {
  std::vector<std::string> arguments = {ERI_PROGRAM, "train"};
  for (const ConfigKey& key : config_keys()) {
    const std::string value = value_of(config, key);
    if (!value.empty()) arguments.push_back(std::string("--") + key.name + "=" + value);
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::dup2(::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), STDOUT_FILENO);
  ::dup2(::open("/dev/null", O_WRONLY), STDERR_FILENO);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

bool running(pid_t child) {
  siginfo_t info = {};
  return ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

int finish(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

// The complete state with the highest step, if there is one.
fs::path newest_state(const fs::path& folder) {
  fs::path newest;
  if (!fs::exists(folder)) return newest;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().ends_with("-state") && entry.path() > newest) newest = entry.path();
  }
  return newest;
}

std::string first_line(const fs::path& file) {
  std::string line;
  std::ifstream in(file);
  std::getline(in, line);
  return line;
}

void expect_goes_on(const fs::path& folder, const std::function<TrainConfig(const char* output)>& run) {
  Trainer whole(run("whole"));
  std::vector<double> losses;
  for (int i = 0; i < 6; ++i) losses.push_back(whole.step().loss);

  Trainer first(run("parts"));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(first.step().loss, losses[i]);
  first.save_state(folder / "state");
  TrainConfig config = run("parts");
  config.resume = folder / "state";
  Trainer second(config);
  EXPECT_EQ(second.steps_done(), 3);
  for (int i = 3; i < 6; ++i) {
    const StepResult result = second.step();
    EXPECT_EQ(result.step, i + 1);
    EXPECT_EQ(result.loss, losses[i]);
  }
  EXPECT_EQ(second.parameters().values().to_host<float>(), whole.parameters().values().to_host<float>());
}

TEST(Resume, GoesOnBitForBitInOneProcess) {
  const TemporaryFolder folder;
  expect_goes_on(folder.path(), [&](const char* output) { return short_run(folder / output, 6); });
}

TEST(Resume, GoesOnBitForBitWithEveryKindOfNoise) {
  const TemporaryFolder folder;
  expect_goes_on(folder.path(), [&](const char* output) { return with_all_noise(short_run(folder / output, 6)); });
}

TEST(Resume, GoesOnBitForBitWithBlocksApart) {
  const TemporaryFolder folder;
  expect_goes_on(folder.path(), [&](const char* output) { return blocks_apart(short_run(folder / output, 6)); });
}

TEST(Resume, GoesOnBitForBitWhereTextEncodersTrain) {
  const TemporaryFolder folder;
  expect_goes_on(folder.path(), [&](const char* output) { return with_text_encoders(short_run(folder / output, 6)); });
}

TEST(Resume, SurvivesBeingKilledAtAnyMoment) {
  const TemporaryFolder folder;
  TrainConfig config = short_run(folder / "whole", 12);
  config.save_every_n_steps = 1;
  ASSERT_EQ(finish(start(config, folder / "whole.log")), 0);

  config.output_dir = folder / "killed";
  int kills = 0;
  for (int wait_ms = 300;; wait_ms = wait_ms * 3 / 2 + 37) {  // moments that fall anywhere in a step or a save
    const fs::path state = newest_state(folder / "killed");
    config.resume = state;
    const pid_t child = start(config, folder / "killed.log");
    for (int waited = 0; waited < wait_ms && running(child); waited += 10) ::usleep(10000);
    ::kill(child, SIGKILL);
    const int status = finish(child);
    if (!state.empty() && fs::file_size(folder / "killed.log") > 0) {
      const std::string next = "{\"step\":" + std::to_string(load_state(state).step + 1) + ",";
      EXPECT_TRUE(first_line(folder / "killed.log").starts_with(next)) << first_line(folder / "killed.log");
    }
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      break;
    }
    ++kills;
    ASSERT_LT(kills, 30);
  }
  EXPECT_GE(kills, 2);
  EXPECT_EQ(data_of(folder / "killed" / "lora.safetensors"), data_of(folder / "whole" / "lora.safetensors"));
}

TEST(Resume, CtrlCSavesAndEndsCleanly) {
  const TemporaryFolder folder;
  TrainConfig config = short_run(folder / "run", 100000);
  config.lr_scheduler = "constant";
  const pid_t child = start(config, folder / "log");
  for (int i = 0; i < 6000 && (!fs::exists(folder / "log") || fs::file_size(folder / "log") == 0); ++i) ::usleep(10000);
  ::kill(child, SIGINT);
  const int status = finish(child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  const fs::path state = newest_state(folder / "run");
  ASSERT_FALSE(state.empty());
  EXPECT_GE(load_state(state).step, 1);
  std::string lora = state.string();
  lora.replace(lora.size() - 6, 6, ".safetensors");
  EXPECT_TRUE(fs::exists(lora)) << lora;
}

struct Change {
  const char* key;
  const char* value;
  const char* says;
};

TEST(Resume, RefusesARunThatWouldBeAnother) {
  const TemporaryFolder folder;
  Trainer trainer(short_run(folder / "run", 4));
  trainer.step();
  trainer.save_state(folder / "state");
  for (const auto& [key, value, says] : std::vector<Change>{
           {"learning_rate", "0.5", "learning_rate"},
           {"network_dim", "8", "network_dim"},
           {"seed", "7", "seed"},
           {"unet_lr", "1e-4", "unet_lr = auto, now it is 1e-04"},
           {"conv_dim", "4", "conv_dim"},
           {"resume", "/nowhere", "/nowhere"},
           {"train_data_dir", "tests/data/plain", "pictures or captions"},
       }) {
    TrainConfig config = short_run(folder / "run", 4);
    config.resume = folder / "state";
    set_value(config, *find_key(key), value);
    try {
      Trainer other(config);
      ADD_FAILURE() << key << " = " << value << " was accepted";
    } catch (const flame::Error& error) {
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  }
}

TEST(Resume, NamesABrokenState) {
  const TemporaryFolder folder;
  Trainer trainer(short_run(folder / "run", 4));
  trainer.save_state(folder / "state");
  fs::resize_file(folder / "state" / "state.safetensors", 1000);
  TrainConfig config = short_run(folder / "run", 4);
  config.resume = folder / "state";
  EXPECT_THROW(
      {
        try {
          Trainer resumed(config);
        } catch (const flame::Error& error) {
          EXPECT_NE(std::string(error.what()).find("state.safetensors"), std::string::npos) << error.what();
          throw;
        }
      },
      flame::Error);
}

}  // namespace
}  // namespace eri
