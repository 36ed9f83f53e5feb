#include <cmath>
#include <cstdio>
#include <future>
#include <iostream>

#include "eri/app/commands.h"
#include "eri/diffusion/sigma_schedules.h"
#include "eri/sampling/parameters_text.h"
#include "eri/sampling/sdxl_sampler.h"
#include "eri/train/start_report.h"
#include "flame/core/error.h"

namespace eri {
namespace {

struct Arguments {
  ModelFiles model;
  std::string file, output = "sample.png", sheet, noise = "philox";
  std::vector<std::string> prompts, loras;
  SampleRequest request;
  int images_per_prompt = 1, batch_size = 1;
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

// Those of --prompt, then those of the file; each that names no seed has the one after the last of the prompt before
// it. A prompt's pictures have seeds that follow one another.
std::vector<SampleRequest> read_requests(const Arguments& arguments) {
  std::vector<SampleRequest> prompts, requests;
  SampleRequest next = arguments.request;
  next.options.sampler = sampler_named(next.options.sampler);
  next.options.scheduler = scheduler_named(next.options.scheduler);
  const auto pictures = static_cast<uint64_t>(arguments.images_per_prompt);
  for (const std::string& prompt : arguments.prompts) {
    next.prompt = prompt;
    prompts.push_back(next);
    next.options.seed += pictures;
  }
  if (!arguments.file.empty()) {
    for (SampleRequest& request : read_prompts(arguments.file, next, pictures)) prompts.push_back(std::move(request));
  }
  for (SampleRequest& prompt : prompts) {
    for (uint64_t i = 0; i < pictures; ++i, ++prompt.options.seed) requests.push_back(prompt);
  }
  if (requests.empty()) flame::fail("there is nothing to draw: give --prompt TEXT or --from_file FILE");
  return requests;
}

// How many of the requests from `first` on can be drawn together.
size_t batch_at(const std::vector<SampleRequest>& requests, size_t first, int most) {
  const auto kind = [](SampleRequest request) {
    request.prompt.clear();
    request.options.negative_prompt.clear();
    request.options.seed = 0;
    return request;
  };
  size_t count = 1;
  while (count < static_cast<size_t>(most) && first + count < requests.size() &&
         kind(requests[first + count]) == kind(requests[first]))
    ++count;
  return count;
}

SDXLSampler load(const Arguments& arguments) {
  const flame::Device device = arguments.machine.chosen_device();
  StartReport report;
  const Checkpoint checkpoint = open_model(arguments.model);
  SDXLSampler sampler(checkpoint, device, arguments.machine.chosen_dtype(), arguments.cuda_graph,
                      arguments.machine.no_half_vae);
  for (const std::string& lora : arguments.loras) {
    const auto [file, strength] = parse_lora(lora);
    sampler.add_lora(file, strength);
  }
  sampler.prepare();
  flame::synchronize(device);
  report.lap("model");
  std::cout << report.loaded(checkpoint.bytes()) << std::endl;
  return sampler;
}

void show(const std::filesystem::path& file, const SampleRequest& request, const SampleTimes& times, size_t together) {
  std::printf("%s  seed %llu  %.2f s (%stext %.0f ms, %d steps of %.1f ms, decoding %.0f ms)  %s\n", file.c_str(),
              static_cast<unsigned long long>(request.options.seed), times.total(),
              together > 1 ? flame::text(together, " at once: ").c_str() : "", 1e3 * times.text, request.steps,
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

// A row for each prompt, or one picture each in a block as high as it is wide.
void save_sheet(const Arguments& arguments, const std::vector<flame::Image>& pictures) {
  const auto square = static_cast<size_t>(std::ceil(std::sqrt(static_cast<double>(pictures.size()))));
  const size_t width = arguments.images_per_prompt > 1 ? static_cast<size_t>(arguments.images_per_prompt) : square;
  std::vector<std::vector<flame::Image>> rows;
  for (size_t i = 0; i < pictures.size(); ++i) {
    if (i % width == 0) rows.emplace_back();
    rows.back().push_back(pictures[i]);
  }
  flame::contact_sheet(rows).save(arguments.sheet);
  std::printf("%s  all of them\n", arguments.sheet.c_str());
}

// What a picture says it was made with.
std::string name_of(const ModelFiles& model) {
  return (model.model.empty() ? model.unet : model.model).stem().string();
}

std::vector<UsedLora> used_loras(const Arguments& arguments) {
  std::vector<UsedLora> used;
  for (const std::string& lora : arguments.loras) {
    const auto [file, strength] = parse_lora(lora);
    used.push_back(used_lora(file, strength));
  }
  return used;
}

void run(const Arguments& arguments) {
  arguments.machine.apply();
  const NoiseSource noise = parse_noise_source(arguments.noise);
  const std::vector<SampleRequest> requests = read_requests(arguments);
  const bool folder = !arguments.output.ends_with(".png");
  if (!folder && requests.size() > 1)
    flame::fail("--output: ", requests.size(), " pictures need a folder, got the file ", arguments.output);
  if (!arguments.sheet.empty() && !arguments.sheet.ends_with(".png"))
    flame::fail("--contact_sheet: expected FILE.png, got ", arguments.sheet);
  if (folder) std::filesystem::create_directories(arguments.output);

  SDXLSampler sampler = load(arguments);
  const std::vector<UsedLora> loras = used_loras(arguments);
  const std::string model = name_of(arguments.model);
  std::vector<flame::Image> all;
  std::future<void> saving;  // of the pictures before, while the next ones are drawn
  for (size_t first = 0; first < requests.size();) {
    const size_t count = batch_at(requests, first, arguments.batch_size);
    const std::vector<flame::Image> pictures = sampler.sample(std::span(&requests[first], count), noise);
    if (saving.valid()) saving.get();
    std::vector<std::filesystem::path> files;
    for (size_t i = 0; i < count; ++i) {
      char name[32];
      std::snprintf(name, sizeof name, "%02zu.png", first + i + 1);
      files.push_back(folder ? std::filesystem::path(arguments.output) / name
                             : std::filesystem::path(arguments.output));
      show(files[i], requests[first + i], sampler.times(), count);
    }
    saving = std::async(std::launch::async, [&requests, &loras, &model, noise, first, pictures, files] {
      for (size_t i = 0; i < files.size(); ++i)
        pictures[i].save(files[i], {{"parameters", parameters_text(requests[first + i], model, loras, noise)}});
    });
    if (!arguments.sheet.empty()) all.insert(all.end(), pictures.begin(), pictures.end());
    first += count;
  }
  saving.get();
  if (!all.empty()) save_sheet(arguments, all);
  show_memory(arguments.machine.chosen_device());
}

}  // namespace

void add_sample(CLI::App& app) {
  const auto joined = [](const std::vector<std::string>& names) { return CLI::detail::join(names, ", "); };
  auto* command = app.add_subcommand("sample", "Draw pictures from text, with any number of LoRAs");
  auto a = std::make_shared<Arguments>();
  add_model(*command, a->model);
  command->add_option("--prompt", a->prompts, "what to draw; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command
      ->add_option(
          "--from_file", a->file,
          "prompts, one a line, as sd-scripts has them: with --n, --w, --h, --d, --l, --s, --ss at a line's end")
      ->type_name("FILE");
  command->add_option("--negative_prompt", a->request.options.negative_prompt, "what to avoid")->type_name("TEXT");
  command->add_option("--lora", a->loras, "a LoRA file, with a strength if not 1; may be given several times")
      ->type_name("FILE[:STRENGTH]")
      ->allow_extra_args(false);
  command->add_option("--seed", a->request.options.seed, "noise of the first picture; the next has the next seed")
      ->capture_default_str();
  command
      ->add_option("--noise", a->noise,
                   "what a seed stands for: philox, the same on every device, or comfy, what ComfyUI draws on a CPU")
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--steps", a->request.steps, "from noise to picture")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      ->add_option("--sampler", a->request.options.sampler,
                   "ComfyUI's name (" + joined(sampler_names()) + ") or sd-scripts'")
      ->type_name("NAME")
      ->capture_default_str();
  command
      ->add_option("--scheduler", a->request.options.scheduler,
                   "which noise levels the steps are at, ComfyUI's name (" + joined(schedule_names()) + ")")
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--cfg", a->request.options.cfg, "guidance: how closely to follow the prompt")
      ->capture_default_str();
  command
      ->add_option(
          "--cfg_rescale", a->request.options.cfg_rescale,
          "0 to 1: guided pictures of v-prediction models get back the contrast of unguided ones; 0.7 is usual")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--width", a->request.options.width, "in pixels, a multiple of 8")->capture_default_str();
  command->add_option("--height", a->request.options.height, "in pixels, a multiple of 8")->capture_default_str();
  command
      ->add_option("--images_per_prompt", a->images_per_prompt,
                   "pictures of each prompt, with seeds that follow its own")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  command
      ->add_option("--batch_size", a->batch_size, "pictures drawn at once, where all but texts and seeds are the same")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--contact_sheet", a->sheet, "all pictures on one sheet; with --images_per_prompt a row a prompt")
      ->type_name("FILE.png");
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
