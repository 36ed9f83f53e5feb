#include <csignal>
#include <iostream>

#include "eri/app/commands.h"
#include "eri/app/config_flags.h"
#include "eri/train/trainer.h"
#include "flame/device/out_of_memory.h"

namespace eri {
namespace {

std::atomic<bool> stop = false;

// The first Ctrl-C asks the run to save and end; a second one ends it at once.
void on_signal(int signal) {
  stop = true;
  std::signal(signal, SIG_DFL);
}

struct Arguments {
  std::string file;
  ConfigFlags flags;
};

TrainConfig read(const Arguments& arguments) {
  TrainConfig config;
  if (!arguments.file.empty()) read_toml(arguments.file, config);
  arguments.flags.apply(config);
  return config;
}

void run(const Arguments& arguments) {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  try {
    Trainer trainer(read(arguments));
    trainer.run(stop);
  } catch (const flame::OutOfMemory& error) {
    flame::fail(error.what(),
                "; close other programs on it, keep less (--memory_policy ff, attn_ff or block), take a smaller "
                "--train_batch_size, --resolution or --network_dim, or raise --max_vram where it is set");
  }
}

}  // namespace

void add_train(CLI::App& app) {
  auto* command = app.add_subcommand("train", "Train a LoRA on a folder of pictures with captions");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("config", arguments->file, "TOML file with any of the keys below; flags win over it")
      ->type_name("CONFIG.toml");
  for (const ConfigKey& key : config_keys()) arguments->flags.add_to(*command, key);
  command->callback([arguments] { run(*arguments); });
}

}  // namespace eri
