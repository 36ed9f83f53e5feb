// A resumed run is the run that was interrupted, bit for bit, whatever interrupted it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include "eri/models/synthetic.h"
#include "eri/train/same_run.h"
#include "eri/train/trainer.h"
#include "flame/io/safetensors.h"
#include "tests/io/files.h"
#include "tests/train/tiny_run.h"

namespace eri {
namespace {

namespace fs = std::filesystem;
using flame::testing::error_of;
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

// What resuming `config` says, where it does not; all of it before there is a folder, let alone a model or pictures.
std::string refusal(TrainConfig config, const fs::path& state, const fs::path& folder) {
  config.resume = state;
  config.output_dir = folder / "not made";
  const std::string error = error_of([&] { Trainer other(config); });
  EXPECT_FALSE(fs::exists(config.output_dir)) << error;
  return error;
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
  trainer.step();
  trainer.save_state(folder / "state");
  for (const auto& [key, value, says] : std::vector<Change>{
           {"learning_rate", "0.5", "learning_rate = 0.004, now it is 0.5"},
           {"network_dim", "8", "network_dim = 4, now it is 8"},
           {"seed", "7", "seed"},
           {"unet_lr", "1e-4", "unet_lr = auto, now it is 1e-04"},
           {"text_encoder_lr", "1e-4", "text_encoder_lr = none, now it is 1e-04"},
           {"text_encoder_lr", "1e-4,0", "text_encoder_lr = none, now it is 1e-04,0"},
           {"conv_dim", "4", "conv_dim = 0, now it is 4"},
           {"exclude_patterns", ".*attn2.*", "exclude_patterns = none, now it is .*attn2.*"},
           {"exclude_patterns", ".*attn3.*", "'.*attn3.*' matches none"},
           {"lora_preset", "attn-only", "lora_preset = auto, now it is attn-only"},
           {"v_parameterization", "true", "v_parameterization = auto, now it is true"},
           {"optimizer_args", "eps=1e-6", "optimizer_args = none, now it is eps=1e-6"},
           {"weight_decay", "0", "weight_decay = 0.01, now it is 0"},
           {"max_train_steps", "1", "is at step 2, beyond max_train_steps = 1; give more"},
       }) {
    TrainConfig config = short_run(folder / "run", 4);
    set_value(config, *find_key(key), value);
    const std::string error = refusal(config, folder / "state", folder.path());
    EXPECT_NE(error.find(says), error.npos) << key << " = " << value << " gave: " << error;
  }
  const std::string nowhere = refusal(short_run(folder / "run", 4), "/nowhere", folder.path());
  EXPECT_NE(nowhere.find("/nowhere/run.json cannot be read"), nowhere.npos) << nowhere;

  TrainConfig config = short_run(folder / "run", 4);
  config.resume = folder / "state";
  config.train_data_dir = "tests/data/plain";
  const std::string error = error_of([&] { Trainer other(config); });
  EXPECT_NE(error.find("pictures or captions"), error.npos) << error;
}

RunState state_of(const TrainConfig& config) {
  RunState state;
  state.config = config;
  return state;
}

// Another value of a key, one that can be.
std::string another(const TrainConfig& config, const ConfigKey& key) {
  const auto each_block = [](const std::string& value) {
    std::string list = value;
    for (int i = 1; i < 23; ++i) list += "," + value;
    return list;
  };
  const std::map<std::string_view, std::string> values = {
      {"block_dims", each_block("5")},
      {"block_alphas", each_block("3")},
      {"conv_block_dims", each_block("3")},
      {"conv_block_alphas", each_block("0.5")},
      {"block_lr_weight", each_block("0.5")},
      {"lora_preset", "unet-convblock-only"},
      {"exclude_patterns", ".*attn1.*"},
      {"include_patterns", ".*attn2.to_q"},
      {"unet_lr", "1e-5"},
      {"text_encoder_lr", "1e-5"},
      {"v_parameterization", "true"},
      {"zero_terminal_snr", "true"},
      {"optimizer_type", "Lion"},
      {"optimizer_args", "betas=0.9,0.99"},
      {"mixed_precision", "bf16"},
      {"resolution", "128,192"},
  };
  if (const auto found = values.find(key.name); found != values.end()) return found->second;
  const std::string value = value_of(config, key);
  if (value == "true") return "false";
  if (value == "false") return "true";
  if (std::holds_alternative<std::string TrainConfig::*>(key.member)) return value + "other";
  return "1" + value;
}

TEST(Resume, RefusesAnotherValueOfEveryKeyThatDecidesTheNumbers) {
  const std::set<std::string_view> free = {"pretrained_model_name_or_path",
                                           "unet",
                                           "vae",
                                           "clip_l",
                                           "clip_g",
                                           "train_data_dir",
                                           "output_dir",
                                           "output_name",
                                           "save_every_n_steps",
                                           "save_state",
                                           "sample_prompts",
                                           "sample_every_n_steps",
                                           "sample_at_first",
                                           "sample_sampler",
                                           "sample_scheduler",
                                           "minimal_metadata",
                                           "metadata_title",
                                           "metadata_author",
                                           "metadata_description",
                                           "metadata_license",
                                           "metadata_tags",
                                           "metadata_usage_hint",
                                           "metadata_trigger_phrase",
                                           "training_comment",
                                           "resume",
                                           "device",
                                           "threads",
                                           "max_vram",
                                           "deterministic",
                                           "memory_policy",
                                           "cuda_graph",
                                           "max_train_steps"};
  TrainConfig config = short_run("", 4);
  config.conv_dim = 2;
  config.exclude_patterns = ".*(attn2|conv1|in_layers).*";
  config.v_parameterization = true;
  for (const ConfigKey& key : config_keys()) {
    TrainConfig before = config;
    if (key.name == std::string_view("v_parameterization")) before.v_parameterization = false;
    TrainConfig now = before;
    set_value(now, key, another(before, key));
    ASSERT_NE(value_of(now, key), value_of(before, key)) << key.name;
    const std::string error = error_of([&] { require_same_run(state_of(before), now); });
    if (free.contains(key.name))
      EXPECT_EQ(error, "");
    else
      EXPECT_NE(error.find(std::string(key.name) + " = "), error.npos) << key.name << " gave: " << error;
  }
}

TEST(Resume, RefusesOtherArgumentsOfTheOptimizer) {
  TrainConfig config = short_run("", 4);
  config.optimizer_type = "Prodigy";
  for (const char* argument : {"decouple=False", "betas=0.9,0.99", "d_coef=2"}) {
    TrainConfig now = config;
    now.optimizer_args = argument;
    const std::string error = error_of([&] { require_same_run(state_of(config), now); });
    EXPECT_NE(error.find(std::string("optimizer_args = none, now it is ") + argument), error.npos) << error;
  }
}

TEST(Resume, RefusesBeforeTheModelIsLoaded) {
  const TemporaryFolder folder;
  Trainer trainer(short_run(folder / "run", 4));
  trainer.save_state(folder / "state");
  TrainConfig config = short_run(folder / "run", 4);
  config.pretrained_model_name_or_path = config.train_data_dir = folder / "nowhere";
  config.seed = 7;
  const std::string error = refusal(config, folder / "state", folder.path());
  EXPECT_NE(error.find("seed = 42, now it is 7"), error.npos) << error;
}

TEST(Resume, TakesTheSameInOtherWords) {
  const TemporaryFolder folder;
  const auto resumed = [&](TrainConfig config, const std::vector<std::pair<const char*, const char*>>& values) {
    config.resume = folder / "state";
    for (const auto& [key, value] : values) set_value(config, *find_key(key), value);
    return error_of([&] { EXPECT_EQ(Trainer(config).steps_done(), 1); });
  };
  TrainConfig config = short_run(folder / "run", 4);
  const auto save = [&] {
    Trainer trainer(config);
    trainer.step();
    trainer.save_state(folder / "state");
  };
  save();
  EXPECT_EQ(resumed(config, {{"unet_lr", "4e-3"},
                             {"learning_rate", "0.0040"},
                             {"text_encoder_lr", "0,0"},
                             {"lora_preset", "attn-mlp"},
                             {"block_dims", "9,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4"},
                             {"block_lr_weight", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1"},
                             {"optimizer_type", "adamw"},
                             {"optimizer_args", "weight_decay=1e-2 betas=(0.9,0.9990)"},
                             {"weight_decay", "0.5"},
                             {"v_parameterization", "false"},
                             {"zero_terminal_snr", "false"},
                             {"mixed_precision", "f32"}}),
            "");
  config = blocks_apart(with_text_encoders(config));
  save();
  EXPECT_EQ(resumed(config, {{"unet_lr", "5e-3"},
                             {"text_encoder_lr", "0.0020, 0.0010"},
                             {"lora_preset", "full"},
                             {"conv_block_dims", "2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2"},
                             {"conv_dim", "0"},
                             {"exclude_patterns", "  .*attn2.* .*attn2\\.to_.*"}}),
            "");
}

TEST(Resume, RefusesAnotherBaseModelWhereverItIs) {
  const TemporaryFolder folder;
  const fs::path state = folder / "state", here = "models/eri-tiny.safetensors";
  write_synthetic_checkpoint(folder / "other", Geometry::load("models/eri-tiny.json"), 7, flame::DType::f16,
                             ModelLayout::diffusers);
  fs::copy_file(here, folder / "moved.safetensors");
  {
    Trainer trainer(short_run(folder / "run", 4));
    trainer.step();
    trainer.save_state(state);
  }
  const auto resumed = [&](const fs::path& model, const fs::path& vae) {
    TrainConfig config = short_run(folder / "run", 4);
    config.resume = state;
    config.pretrained_model_name_or_path = model;
    config.vae = vae;
    return error_of([&] { EXPECT_EQ(Trainer(config).steps_done(), 1); });
  };
  const auto refusal = [&](const char* what, const fs::path& where) {
    return flame::text("resume: ", state.string(), " was trained with another ", what, " (that of ", here.string(),
                       ", now of ", where.string(), "); give the same, or start a new run");
  };
  EXPECT_EQ(resumed(folder / "moved.safetensors", ""), "");
  EXPECT_EQ(resumed(folder / "moved.safetensors", here), "");
  EXPECT_EQ(resumed(folder / "other", ""), refusal("base model", folder / "other"));
  EXPECT_EQ(resumed(here, folder / "other" / "vae"), refusal("VAE", folder / "other" / "vae"));

  // A state from before the base was noted.
  std::ostringstream run;
  run << std::ifstream(state / "run.json").rdbuf();
  std::string older = run.str();
  const size_t base = older.find("\"base\""), next = older.find("\"config\"");
  ASSERT_LT(base, next);
  std::ofstream(state / "run.json") << older.erase(base, next - base);
  EXPECT_EQ(resumed(here, folder / "other" / "vae"), "");
}

TEST(Resume, KnowsABaseModelInAnyLayout) {
  const TemporaryFolder folder;
  const auto written = [&](const char* name, uint64_t seed, ModelLayout layout) {
    write_synthetic_checkpoint(folder / name, Geometry::load("models/eri-tiny.json"), seed, flame::DType::f16, layout);
    return base_fingerprint(Checkpoint(ModelFiles{folder / name, {}, {}, {}, {}}));
  };
  const BaseFingerprint single = written("single.safetensors", 7, ModelLayout::single);
  EXPECT_EQ(single.size(), 5u);
  EXPECT_EQ(written("diffusers", 7, ModelLayout::diffusers), single);
  EXPECT_EQ(written("sharded", 7, ModelLayout::sharded), single);
  for (const auto& [part, hash] : written("other.safetensors", 8, ModelLayout::single))
    EXPECT_EQ(hash == single.at(part), part == "prediction") << part;
}

// A file may have CLIP-L's projection, which SDXL does not use.
TEST(Resume, KnowsATextEncoderByWhatIsUsedOfIt) {
  const TemporaryFolder folder;
  const fs::path plain = folder / "plain.safetensors", more = folder / "more.safetensors";
  write_synthetic_checkpoint(plain, Geometry::load("models/eri-tiny.json"), 7, flame::DType::f16, ModelLayout::single);
  std::map<std::string, flame::Tensor> tensors;
  const flame::SafetensorsFile file(plain);
  for (const auto& [name, entry] : file.entries()) tensors[name] = file.tensor(name);
  tensors["conditioner.embedders.0.transformer.text_projection.weight"] = flame::Tensor::ones({8, 8});
  flame::write_safetensors(more, tensors);
  const auto known = [](const fs::path& path) {
    return base_fingerprint(Checkpoint(ModelFiles{path, {}, {}, {}, {}}));
  };
  EXPECT_EQ(known(more), known(plain));
}

// The file may have lost the mark that said so.
TEST(Resume, TakesAPredictionThatIsSaidInsteadOfFound) {
  RunState before = state_of(short_run("", 4));
  before.base = {{"prediction", "v"}};
  TrainConfig now = before.config;
  EXPECT_NE(error_of([&] { require_same_run(before, now); }).find("that predicts v, now it is epsilon"),
            std::string::npos);
  set_value(now, *find_key("v_parameterization"), "true");
  EXPECT_EQ(error_of([&] { require_same_run(before, now); }), "");
}

TEST(Resume, NamesAllThatDiffersAtOnce) {
  TrainConfig before = short_run("", 4), now = before;
  now.resume = "somewhere";
  now.network_dim = 8;
  now.seed = 7;
  now.learning_rate = 1e-3;
  EXPECT_EQ(error_of([&] { require_same_run(state_of(before), now); }),
            "resume: somewhere was trained with network_dim = 4, now it is 8; learning_rate = 0.004, now it is 0.001; "
            "seed = 42, now it is 7; use the same, or start a new run");
}

TEST(Resume, SaysWhereMoreStepsChangeTheRates) {
  RunState before = state_of(short_run("", 6));
  before.step = 3;
  TrainConfig now = short_run("", 12);
  EXPECT_EQ(other_rates(before, before.config), "");
  EXPECT_EQ(other_rates(before, now),
            "max_train_steps was 6, now it is 12: from step 4 on the learning rate is that of a run of 12 steps "
            "(lr_scheduler = cosine)");
  for (const char* schedule : {"constant", "constant_with_warmup", "linear", "cosine_with_restarts", "polynomial"}) {
    before.config.lr_scheduler = now.lr_scheduler = schedule;
    EXPECT_EQ(other_rates(before, now).empty(), std::string_view(schedule).starts_with("constant")) << schedule;
  }
}

TEST(Resume, NamesABrokenState) {
  const TemporaryFolder folder;
  const TrainConfig config = short_run(folder / "run", 4);
  const fs::path state = folder / "state", tensors = state / "state.safetensors";
  Trainer(config).save_state(state);
  const auto expect_refusal = [&](const std::string& begins, const std::string& has) {
    const std::string error = refusal(config, state, folder.path());
    EXPECT_TRUE(error.starts_with(begins)) << error;
    EXPECT_NE(error.find(has), error.npos) << error;
    EXPECT_TRUE(error.ends_with("; take another ...-state folder of the run")) << error;
  };
  fs::resize_file(tensors, 1000);
  expect_refusal("resume: ", tensors.string());
  fs::remove(tensors);
  expect_refusal("resume: ", tensors.string());
  for (const char* broken : {"{}", "{\"format\": 1,", R"({"format": 1, "step": "x"})"}) {
    std::ofstream(state / "run.json") << broken;
    expect_refusal("resume: " + (state / "run.json").string() + " is broken", "of another program");
  }
}

}  // namespace
}  // namespace eri
