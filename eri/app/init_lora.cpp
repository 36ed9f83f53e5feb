#include <algorithm>
#include <chrono>
#include <iostream>

#include "eri/app/commands.h"
#include "eri/app/config_flags.h"
#include "eri/lora/sdxl_lora.h"
#include "eri/train/training_metadata.h"

namespace eri {

namespace {

// What options of training mean where nothing is trained.
constexpr std::pair<std::string_view, const char*> own_help[] = {
    {"block_lr_weight",
     "0 for those of the same blocks that get no LoRA, a number above 0 for those that do; otherwise all do"},
    {"exclude_patterns",
     "regular expressions for names of layers that get none, apart by spaces, such as .*attn2.*; otherwise none is "
     "left out"},
    {"seed", "the random factors follow from it"},
    {"minimal_metadata", "only what programs need to load it: nothing of the model and dates"}};

}  // namespace

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
  command->add_flag("--text_encoders", a->text_encoders,
                    "modules of both text encoders, too; otherwise of the UNet alone");
  for (const ConfigKey& key : config_keys()) {
    const auto* own = std::find_if(std::begin(own_help), std::end(own_help),
                                   [&](const auto& known) { return known.first == key.name; });
    const bool has_own = own != std::end(own_help);
    if (!has_own && std::string_view(key.group) != network_group) continue;
    CLI::Option* option = a->flags.add_to(*command, key, has_own ? own->second : nullptr);
    if (find_key("seed") == &key) option->group(network_group);
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
