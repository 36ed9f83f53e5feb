#include <iostream>

#include "eri/app/commands.h"
#include "eri/app/config_flags.h"
#include "eri/lora/sdxl_lora.h"

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
  for (const ConfigKey& key : config_keys())
    if (std::string_view(key.group) == network_group || find_key("seed") == &key) a->flags.add_to(*command, key);
  command->add_option("--output", a->output, "the file to write")->type_name("FILE")->required();
  command->callback([a] {
    TrainConfig config;
    a->flags.apply(config);
    const LoRA lora =
        random_lora(sdxl_lora_targets(Checkpoint(a->model), a->text_encoders, LoraPreset::full), lora_options(config));
    lora.save(a->output);
    std::cout << a->output << ": " << lora.modules().size() << " modules of rank " << lora.ranks() << std::endl;
  });
}

}  // namespace eri
