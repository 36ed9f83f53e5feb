#include "eri/lora/verify.h"

#include <iostream>

#include "eri/app/commands.h"
#include "eri/lora/sdxl_lora.h"
#include "flame/core/error.h"

namespace eri {
namespace {

struct Arguments {
  std::string lora;
  ModelFiles model;
};

void run(const Arguments& arguments) {
  const LoraReport report = verify_lora(arguments.lora, sdxl_lora_targets(open_model(arguments.model), true));
  for (const std::string& complaint : report.complaints) std::cout << complaint << "\n";
  std::cout << arguments.lora << ": " << report.modules << " modules of rank " << report.ranks << ", "
            << report.modules - report.without_effect << " with an effect" << std::endl;
  std::cout << "modules that load in";
  for (const Loaded& loaded : report.loaded)
    std::cout << (&loaded == report.loaded.data() ? " " : ", ") << name_of(loaded.program) << ": " << loaded.modules;
  std::cout << std::endl;
  if (!report.complaints.empty()) flame::fail(arguments.lora, " would not load completely everywhere");
  std::cout << "it loads completely in ComfyUI, A1111, Forge and diffusers" << std::endl;
}

}  // namespace

void add_verify(CLI::App& app) {
  auto* command = app.add_subcommand("verify", "Check that a LoRA file loads completely in other programs");
  auto a = std::make_shared<Arguments>();
  command->add_option("lora", a->lora, "the LoRA file")->type_name("LORA.safetensors")->required();
  add_model(*command, a->model);
  command->callback([a] { run(*a); });
}

}  // namespace eri
