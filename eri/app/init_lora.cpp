#include <iostream>

#include "eri/app/commands.h"
#include "eri/lora/sdxl_lora.h"

namespace eri {

void add_init_lora(CLI::App& app) {
  struct Arguments {
    ModelFiles model;
    std::string output;
    LoraOptions options;
    bool text_encoders = false;
  };
  auto* command = app.add_subcommand("init-lora", "Write a LoRA with random factors, to try other programs with");
  auto a = std::make_shared<Arguments>();
  add_model(*command, a->model);
  command->add_option("--network_dim", a->options.dim, "rank")->capture_default_str();
  command->add_option("--network_alpha", a->options.alpha, "strength is alpha / rank")->capture_default_str();
  command->add_flag("--text_encoders", a->text_encoders, "modules of both text encoders, too");
  command->add_option("--conv_dim", a->options.conv_dim, "convolutions and ResBlock embeddings, too, at this rank");
  command->add_option("--conv_alpha", a->options.conv_alpha, "alpha of 3x3 convolutions")->capture_default_str();
  command
      ->add_option("--block_dims", a->options.block_dims,
                   "ranks of the UNet's blocks as kohya numbers them, 23 for SDXL; 0: no LoRA there")
      ->delimiter(',');
  command->add_option("--block_alphas", a->options.block_alphas, "alphas of the same blocks")->delimiter(',');
  command->add_option("--seed", a->options.seed, "of the random factors")->capture_default_str();
  command->add_option("--output", a->output, "the file to write")->type_name("FILE")->required();
  command->callback([a] {
    const LoraPreset preset = a->options.conv_dim > 0 ? LoraPreset::conv : LoraPreset::linear;
    const LoRA lora = random_lora(sdxl_lora_targets(Checkpoint(a->model), a->text_encoders, preset), a->options);
    lora.save(a->output);
    std::cout << a->output << ": " << lora.modules().size() << " modules of rank " << lora.rank() << std::endl;
  });
}

}  // namespace eri
