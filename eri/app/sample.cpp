#include <fstream>
#include <iostream>

#include "eri/app/commands.h"
#include "eri/sampling/sdxl_sampler.h"
#include "flame/core/error.h"

namespace eri {
namespace {

struct Arguments {
  std::string model, file, output = "sample.png";
  std::vector<std::string> prompts, loras;
  int steps = 20;
  SampleOptions options;
  Machine machine;
};

// FILE or FILE:STRENGTH.
std::pair<std::string, double> parse_lora(const std::string& argument) {
  const size_t colon = argument.rfind(':');
  if (colon == std::string::npos || argument.find('/', colon) != std::string::npos) return {argument, 1};
  const std::string strength = argument.substr(colon + 1);
  size_t end = 0;
  double value = 0;
  try {
    value = std::stod(strength, &end);
  } catch (const std::exception&) {
  }
  if (strength.empty() || end != strength.size())
    flame::fail("--lora: expected FILE or FILE:STRENGTH, got '", argument, "'");
  return {argument.substr(0, colon), value};
}

std::vector<std::string> read_prompts(const Arguments& arguments) {
  std::vector<std::string> prompts = arguments.prompts;
  if (!arguments.file.empty()) {
    std::ifstream in(arguments.file);
    if (!in) flame::fail("--from_file: cannot read ", arguments.file);
    for (std::string line; std::getline(in, line);) {
      if (!line.empty()) prompts.push_back(line);
    }
  }
  if (prompts.empty()) flame::fail("there is nothing to draw: give --prompt TEXT or --from_file FILE");
  return prompts;
}

void run(const Arguments& arguments) {
  arguments.machine.apply();
  const std::vector<std::string> prompts = read_prompts(arguments);
  const bool folder = !arguments.output.ends_with(".png");
  if (!folder && prompts.size() > 1)
    flame::fail("--output: ", prompts.size(), " prompts need a folder, got the file ", arguments.output);
  if (folder) std::filesystem::create_directories(arguments.output);

  SDXLSampler sampler(arguments.model, arguments.machine.chosen_device(), arguments.machine.chosen_dtype());
  for (const std::string& lora : arguments.loras) {
    const auto [file, strength] = parse_lora(lora);
    sampler.add_lora(file, strength);
  }
  SampleOptions options = arguments.options;
  for (size_t i = 0; i < prompts.size(); ++i, ++options.seed) {
    char name[32];
    std::snprintf(name, sizeof name, "%02zu.png", i + 1);
    const auto file = folder ? std::filesystem::path(arguments.output) / name : std::filesystem::path(arguments.output);
    sampler.sample(prompts[i], arguments.steps, options).save(file);
    std::cout << file.string() << "  seed " << options.seed << "  " << prompts[i] << std::endl;
  }
}

}  // namespace

void add_sample(CLI::App& app) {
  auto* command = app.add_subcommand("sample", "Draw pictures from text, with any number of LoRAs");
  auto a = std::make_shared<Arguments>();
  add_model(*command, a->model);
  command->add_option("--prompt", a->prompts, "what to draw; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command->add_option("--from_file", a->file, "prompts, one a line")->type_name("FILE");
  command->add_option("--negative_prompt", a->options.negative_prompt, "what to avoid")->type_name("TEXT");
  command->add_option("--lora", a->loras, "a LoRA file, with a strength if not 1; may be given several times")
      ->type_name("FILE[:STRENGTH]")
      ->allow_extra_args(false);
  command->add_option("--seed", a->options.seed, "noise of the first picture; the next has the next seed")
      ->capture_default_str();
  command->add_option("--steps", a->steps, "Euler steps")->check(CLI::Range(1, 1000))->capture_default_str();
  command->add_option("--cfg", a->options.cfg, "guidance: how closely to follow the prompt")->capture_default_str();
  command->add_option("--width", a->options.width, "in pixels, a multiple of 8")->capture_default_str();
  command->add_option("--height", a->options.height, "in pixels, a multiple of 8")->capture_default_str();
  command->add_option("--output", a->output, "FILE.png, or a folder for 01.png, 02.png, ...")->capture_default_str();
  a->machine.add_to(*command);
  command->callback([a] { run(*a); });
}

}  // namespace eri
