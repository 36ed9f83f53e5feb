#include <chrono>
#include <iostream>

#include "eri/app/commands.h"
#include "eri/app/config_flags.h"
#include "eri/lora/sdxl_lora.h"
#include "eri/train/training_metadata.h"

namespace eri {

void add_init_lora(CLI::App& app) {
  struct Arguments {
    ModelFiles model;
    std::string output;
    ConfigFlags flags;
    bool text_encoders = false;
  };
  auto* command = app.add_subcommand("init-lora", "Write a LoRA with random factors, to try other programs with");
  auto a = std::make_shared<Arguments>();
  add_model(*command, a->model);
  command->add_flag("--text_encoders", a->text_encoders, "modules of both text encoders, too");
  for (const ConfigKey& key : config_keys()) {
    const bool is_other = find_key("seed") == &key || find_key("minimal_metadata") == &key;
    if (std::string_view(key.group) == network_group || is_other) a->flags.add_to(*command, key);
  }
  command->add_option("--output", a->output, "the file to write")->type_name("FILE")->required();
  command->callback([a] {
    TrainConfig config;
    a->flags.apply(config);
    if (a->text_encoders) config.text_encoder_lr = {config.learning_rate};
    const Checkpoint checkpoint = open_model(a->model);
    const LoRA lora = random_lora(sdxl_lora_targets(checkpoint, a->text_encoders), lora_options(config));
    const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
    if (config.minimal_metadata)
      lora.save(a->output, {}, MetadataDetail::minimal);
    else
      lora.save(a->output, untrained_metadata(checkpoint, config.seed, now.count()));
    std::cout << a->output << ": " << lora.modules().size() << " modules of rank " << lora.ranks() << std::endl;
  });
}

}  // namespace eri
