#include "eri/train/evaluate.h"

#include <iostream>

#include "eri/app/commands.h"
#include "eri/lora/lora.h"
#include "eri/train/config.h"

namespace eri {
namespace {

struct Arguments {
  ModelFiles model;
  std::string lora, folder, caption_extension = ".txt", resolution = "1024";
  Machine machine;
};

void run(const Arguments& arguments) {
  arguments.machine.apply();
  TrainConfig config;
  set_value(config, *find_key("resolution"), arguments.resolution);
  const ImageDataset dataset = scan_folder(arguments.folder, {.width = config.resolution.width,
                                                              .height = config.resolution.height,
                                                              .caption_extension = arguments.caption_extension});
  const auto family =
      load_sdxl(open_model(arguments.model), arguments.machine.chosen_device(),
                {.dtype = arguments.machine.chosen_dtype(), .no_half_vae = arguments.machine.no_half_vae});
  family->load_network();
  if (!arguments.lora.empty())
    apply_loras(std::vector{std::pair{LoRA::from_safetensors(arguments.lora, family->all_targets()), 1.0}},
                family->all_targets());
  const CachedDataset cache(dataset, *family, 0);
  std::cout << "fixed-noise loss " << fixed_noise_loss(*family, cache) << std::endl;
}

}  // namespace

void add_evaluate(CLI::App& app) {
  auto* command = app.add_subcommand("evaluate", "Measure how well a model, with or without a LoRA, fits a folder");
  auto a = std::make_shared<Arguments>();
  add_model(*command, a->model);
  command->add_option("--lora", a->lora, "a LoRA file")->type_name("FILE");
  command->add_option("--train_data_dir", a->folder, "pictures with captions")->type_name("FOLDER")->required();
  command->add_option("--caption_extension", a->caption_extension, "ending of the caption files")
      ->capture_default_str();
  command->add_option("--resolution", a->resolution, "1024, or width,height")->capture_default_str();
  a->machine.add_to(*command);
  command->callback([a] { run(*a); });
}

}  // namespace eri
