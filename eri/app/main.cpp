#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "eri/app/commands.h"
#include "eri/app/version.h"
#include "eri/train/config.h"
#include "eri/train/sd_scripts_keys.h"
#include "flame/core/closest.h"
#include "flame/core/error.h"
#include "flame/device/device.h"
#include "flame/device/out_of_memory.h"
#include "flame/device/plan_cache.h"

namespace eri {
namespace {

constexpr const char* about = R"(EriDiffusion: train a LoRA for Stable Diffusion XL from a folder of pictures.

  eri train config.toml                    train; every key of the file is also a flag
  eri train --model sdxl.safetensors --train_data_dir cats --output_name cats
  eri sample --model sdxl.safetensors --lora output/cats.safetensors --prompt "a cat" --output cat.png
)";

// Threads that spin while they wait cost another program on the same cores, and ours, ten times over. OpenMP reads
// this before main, so the program starts once more with it set.
void wait_passively(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) return;
  ::setenv("OMP_WAIT_POLICY", "passive", 1);
  ::execv("/proc/self/exe", argv);
}

// `-` and `_` are the same in flags: --max-train-steps is --max_train_steps.
std::vector<std::string> arguments(int argc, char** argv) {
  std::vector<std::string> result;
  for (int i = argc - 1; i > 0; --i) {  // CLI11 takes them from the back
    std::string argument = argv[i];
    if (argument.starts_with("--")) {
      const size_t end = std::min(argument.find('='), argument.size());
      std::replace(argument.begin() + 2, argument.begin() + static_cast<std::ptrdiff_t>(end), '-', '_');
    }
    result.push_back(std::move(argument));
  }
  return result;
}

// What commands that draw call what training has under another name.
constexpr std::pair<std::string_view, std::string_view> when_drawing[] = {{"network_weights", "lora"},
                                                                          {"mixed_precision", "dtype"},
                                                                          {"sample_sampler", "sampler"},
                                                                          {"sample_scheduler", "scheduler"},
                                                                          {"resolution", "width"}};

// The flag that begins or ends with `name`, or that `name` begins with; else the closest; else nothing.
std::string like(const std::string& name, const std::vector<std::string>& known) {
  const auto has_part = [&](const std::string& flag) {
    return flag.starts_with(name + "_") || flag.ends_with("_" + name) || name.starts_with(flag + "_");
  };
  const auto found = std::find_if(known.begin(), known.end(), has_part);
  return found != known.end() ? *found : flame::closest(name, known);
}

// What to do instead of giving a flag that does not exist. Remedies for sd-scripts' are written for training; elsewhere
// only those are of use that name the command's own flags.
std::string instead_of(const std::string& name, const std::vector<std::string>& known, bool trains) {
  const auto is_known = [&](std::string_view key) { return std::find(known.begin(), known.end(), key) != known.end(); };
  for (const auto& [key, flag] : when_drawing)
    if (!trains && key == name && is_known(flag)) return flame::text("here it is --", flag);
  const std::string instead = instead_of_sd_scripts_key(name);
  const std::vector<std::string> named = keys_named_in(instead);
  const bool names_ours = std::any_of(named.begin(), named.end(), is_known);
  const bool names_others =
      std::any_of(named.begin(), named.end(), [&](const auto& key) { return find_key(key) && !is_known(key); });
  if (!instead.empty() && (trains || (names_ours && !names_others))) return instead;
  if (!trains && (!instead.empty() || find_key(name))) return "nothing is trained here; delete it";
  const std::string match = like(name, known);
  return match.empty() ? "there is no such flag" : "did you mean --" + match + "?";
}

// What to do about each flag that does not exist or is given again, and where to read more.
std::string remedy(const CLI::App& app, int argc, char** argv) {
  const CLI::App* command = app.get_subcommands().empty() ? &app : app.get_subcommands().front();
  std::vector<std::string> known;
  std::string text;
  for (const CLI::Option* option : command->get_options()) {
    std::string names;
    for (const std::string& name : option->get_lnames()) {
      known.push_back(name);
      names += (names.empty() ? "--" : " or --") + name;
    }
    if (option->get_items_expected_max() == 1 && option->count() > 1)
      text += flame::text("\n", names, ": given ", option->count(), " times; give it once");
  }
  const bool trains = command == &app || command->get_name() == "train";
  for (const std::string& argument : arguments(argc, argv)) {
    const std::string flag = argument.substr(0, argument.find('='));
    if (flag.size() < 3 || !flag.starts_with("--")) continue;
    const std::string name = flag.substr(2);
    if (std::find(known.begin(), known.end(), name) == known.end())
      text = "\n" + flag + ": " + instead_of(name, known, trains) + text;  // they come last first
  }
  const std::string name = command == &app ? "" : " " + command->get_name();
  return text + "\neri" + name + " --help lists all flags.";
}

}  // namespace

void Machine::add_to(CLI::App& command) {
  const auto add = [&](const char* flag, auto& value, const char* help) {
    return command.add_option(flag, value, help)->capture_default_str()->group("Machine");
  };
  add("--device", device, "auto (a GPU if there is one), cpu or cuda:0");
  add("--dtype", dtype, "what the networks compute in: f32, f16, bf16 or auto (bf16 on a GPU)");
  add("--threads", threads, "CPU threads; 0: all cores");
  add("--max_vram", max_vram, "the most of a GPU's memory to use, in GiB, 0.75 of it for the driver; 0: no limit")
      ->check(CLI::NonNegativeNumber);
  command.add_flag("--allow_tf32", allow_tf32, "products of f32 on a GPU may round their factors to TF32")
      ->group("Machine");
  command.add_flag("--no_half_vae", no_half_vae, "the autoencoder computes in f32 on a GPU too, not in bf16")
      ->group("Machine");
}

void Machine::apply() const {
  flame::set_memory_limit(chosen_device(), buffer_limit(max_vram));
  flame::set_tf32(allow_tf32);
  chosen_dtype();
  if (threads > 0) flame::set_threads(threads);
}

flame::DType Machine::chosen_dtype() const try {
  return compute_dtype(dtype, chosen_device());
} catch (const flame::Error& error) {
  flame::fail("--dtype: ", error.what());
}

void add_model(CLI::App& command, ModelFiles& model) {
  const auto add = [&](const char* flags, std::filesystem::path& path, const char* help) {
    command.add_option(flags, path, help)->type_name("FILE")->group("Model");
  };
  add("--model,--pretrained_model_name_or_path", model.model,
      "an SDXL model: a .safetensors file or a diffusers folder");
  add("--unet", model.unet, "a UNet in a file or folder of its own, in place of the model's");
  add("--vae", model.vae, "a VAE, such as sdxl_vae.safetensors, in place of the model's");
  add("--clip_l", model.clip_l, "the text encoder CLIP-L, such as clip_l.safetensors, in place of the model's");
  add("--clip_g", model.clip_g, "the text encoder CLIP-G, such as clip_g.safetensors, in place of the model's");
  const auto add_switch = [&](const char* flag, std::optional<bool>& value, const char* help) {
    command.add_option(flag, value, help)->type_name("BOOL")->expected(0, 1)->default_str("true")->group("Model");
  };
  add_switch("--v_parameterization", model.v_parameterization,
             "the model predicts v, or (false) does not; otherwise as the checkpoint says");
  add_switch("--zero_terminal_snr", model.zero_terminal_snr,
             "its last step is noise alone, or (false) is not; otherwise as the checkpoint says");
}

Checkpoint open_model(const ModelFiles& model) {
  if (model.model.empty() && model.unet.empty()) flame::fail("there is no model: give one with --model FILE");
  Checkpoint checkpoint(model);
  std::cout << "the model " << checkpoint.parametrization().sentence() << std::endl;
  return checkpoint;
}

namespace {

int run(int argc, char** argv) {
  CLI::App app(about, "eri");
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", version(), "which version and commit this is, and whether it can use GPUs");
  app.get_formatter()->column_width(44);
  add_train(app);
  add_sample(app);
  add_evaluate(app);
  add_encode(app);
  add_inspect(app);
  add_verify(app);
  add_init_lora(app);
  add_synth(app);
  add_doctor(app);
  try {
    if (const std::string complaint = flame::cpu_complaint(); !complaint.empty()) flame::fail(complaint);
    app.parse(arguments(argc, argv));
    if (app.get_subcommands().empty()) std::cout << app.help();
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::cerr << "eri: " << error.what() << remedy(app, argc, argv) << std::endl;
    return 2;
  } catch (const flame::OutOfMemory& error) {
    std::cerr << "eri: " << error.what()
              << "; close other programs on it, ask for fewer or smaller pictures, or raise --max_vram where it is set"
              << std::endl;
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "eri: " << error.what() << std::endl;
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace eri

int main(int argc, char** argv) {
  eri::wait_passively(argv);
  const int status = eri::run(argc, argv);
  flame::save_plans();  // of a command that failed, too: what it searched for is as good
  return status;
}
