#include <chrono>
#include <cstdio>
#include <future>
#include <iostream>

#include "eri/app/commands.h"
#include "eri/sampling/sdxl_sampler.h"
#include "flame/core/error.h"

namespace eri {
namespace {

struct Arguments {
  std::string model, file, output = "sample.png";
  std::vector<std::string> prompts, loras;
  SampleRequest request;
  bool cuda_graph = true;
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

// Those of --prompt, then those of the file; each that names no seed has the one after that of the prompt before it.
std::vector<SampleRequest> read_requests(const Arguments& arguments) {
  std::vector<SampleRequest> requests;
  SampleRequest next = arguments.request;
  for (const std::string& prompt : arguments.prompts) {
    next.prompt = prompt;
    requests.push_back(next);
    ++next.options.seed;
  }
  if (!arguments.file.empty()) {
    for (SampleRequest& request : read_prompts(arguments.file, next)) requests.push_back(std::move(request));
  }
  if (requests.empty()) flame::fail("there is nothing to draw: give --prompt TEXT or --from_file FILE");
  return requests;
}

SDXLSampler load(const Arguments& arguments) {
  const flame::Device device = arguments.machine.chosen_device();
  const auto begin = std::chrono::steady_clock::now();
  SDXLSampler sampler(arguments.model, device, arguments.machine.chosen_dtype(), arguments.cuda_graph,
                      arguments.machine.no_half_vae);
  for (const std::string& lora : arguments.loras) {
    const auto [file, strength] = parse_lora(lora);
    sampler.add_lora(file, strength);
  }
  sampler.prepare();
  flame::synchronize(device);
  std::printf("loaded in %.2f s\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return sampler;
}

void show(const std::filesystem::path& file, const SampleRequest& request, const SampleTimes& times) {
  std::printf("%s  seed %llu  %.2f s (text %.0f ms, %d steps of %.1f ms, decoding %.0f ms)  %s\n", file.c_str(),
              static_cast<unsigned long long>(request.options.seed), times.total(), 1e3 * times.text, request.steps,
              1e3 * times.steps / request.steps, 1e3 * times.decode, request.prompt.c_str());
  std::fflush(stdout);
}

void show_memory(flame::Device device) {
  if (device.is_cpu()) return;
  const flame::MemoryUse use = flame::memory_use(device);
  constexpr double GiB = 1 << 30;
  std::printf("peak memory %.2f GiB, taken of the card %.2f GiB\n", static_cast<double>(use.peak) / GiB,
              static_cast<double>(use.reserved) / GiB);
}

void run(const Arguments& arguments) {
  arguments.machine.apply();
  const std::vector<SampleRequest> requests = read_requests(arguments);
  const bool folder = !arguments.output.ends_with(".png");
  if (!folder && requests.size() > 1)
    flame::fail("--output: ", requests.size(), " prompts need a folder, got the file ", arguments.output);
  if (folder) std::filesystem::create_directories(arguments.output);

  SDXLSampler sampler = load(arguments);
  std::future<void> saving;  // of the picture before, while the next one is drawn
  for (size_t i = 0; i < requests.size(); ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "%02zu.png", i + 1);
    const auto file = folder ? std::filesystem::path(arguments.output) / name : std::filesystem::path(arguments.output);
    const flame::Image picture = sampler.sample(requests[i]);
    if (saving.valid()) saving.get();
    saving = std::async(std::launch::async, [picture, file] { picture.save(file); });
    show(file, requests[i], sampler.times());
  }
  saving.get();
  show_memory(arguments.machine.chosen_device());
}

}  // namespace

void add_sample(CLI::App& app) {
  auto* command = app.add_subcommand("sample", "Draw pictures from text, with any number of LoRAs");
  auto a = std::make_shared<Arguments>();
  add_model(*command, a->model);
  command->add_option("--prompt", a->prompts, "what to draw; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command
      ->add_option("--from_file", a->file,
                   "prompts, one a line, as sd-scripts has them: with --n, --w, --h, --d, --l, --s at a line's end")
      ->type_name("FILE");
  command->add_option("--negative_prompt", a->request.options.negative_prompt, "what to avoid")->type_name("TEXT");
  command->add_option("--lora", a->loras, "a LoRA file, with a strength if not 1; may be given several times")
      ->type_name("FILE[:STRENGTH]")
      ->allow_extra_args(false);
  command->add_option("--seed", a->request.options.seed, "noise of the first picture; the next has the next seed")
      ->capture_default_str();
  command->add_option("--steps", a->request.steps, "Euler steps")->check(CLI::Range(1, 1000))->capture_default_str();
  command->add_option("--cfg", a->request.options.cfg, "guidance: how closely to follow the prompt")
      ->capture_default_str();
  command->add_option("--width", a->request.options.width, "in pixels, a multiple of 8")->capture_default_str();
  command->add_option("--height", a->request.options.height, "in pixels, a multiple of 8")->capture_default_str();
  command->add_option("--output", a->output, "FILE.png, or a folder for 01.png, 02.png, ...")->capture_default_str();
  a->machine.add_to(*command);
  command
      ->add_option("--cuda_graph", a->cuda_graph,
                   "launch a whole step on a GPU at once; false: kernel by kernel, for debuggers")
      ->capture_default_str()
      ->group("Machine");
  command->callback([a] { run(*a); });
}

}  // namespace eri
