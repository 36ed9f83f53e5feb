#include <iostream>

#include "eri/app/commands.h"
#include "eri/models/synthetic.h"
#include "eri/train/config.h"

namespace eri {

void add_synth(CLI::App& app) {
  struct Arguments {
    std::string geometry, output, dtype = "f32", layout = "single";
    uint64_t seed = 0;
  };
  auto* command = app.add_subcommand("synth", "Write a synthetic checkpoint: any size, weights from a formula");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("geometry", arguments->geometry, "a geometry file (JSON), or sdxl for the real sizes")
      ->type_name("GEOMETRY")
      ->required();
  command->add_option("seed", arguments->seed, "seed of the formula")->type_name("SEED")->required();
  command->add_option("output", arguments->output, "the file to write, or the folder")->type_name("OUT")->required();
  command->add_option("--dtype", arguments->dtype, "f32, f16 or bf16")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->capture_default_str();
  command
      ->add_option("--layout", arguments->layout,
                   "single (a file), or a folder: diffusers, diffusers-fp16, sharded (diffusers, in several files) or "
                   "separate (a file for each part)")
      ->capture_default_str();
  command->callback([arguments] {
    const Geometry geometry = arguments->geometry == "sdxl" ? Geometry() : Geometry::load(arguments->geometry);
    write_synthetic_checkpoint(arguments->output, geometry, arguments->seed,
                               compute_dtype(arguments->dtype, flame::Device::cpu()), parse_layout(arguments->layout));
    std::cout << "wrote " << arguments->output << std::endl;
  });
}

}  // namespace eri
