#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "eri/models/checkpoint.h"
#include "flame/core/dtype.h"
#include "flame/device/device.h"

// Each subcommand adds itself to the program; what it does runs when the command line has been read.
namespace eri {

void add_train(CLI::App& app);
void add_sample(CLI::App& app);
void add_encode(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_verify(CLI::App& app);
void add_init_lora(CLI::App& app);
void add_synth(CLI::App& app);
void add_doctor(CLI::App& app);
void add_inspect(CLI::App& app);

// `--device` and what goes with it, the same in every command that computes.
struct Machine {
  std::string device = "auto", dtype = "auto";
  int threads = 0;
  double max_vram = 0;  // GiB
  bool allow_tf32 = false, no_half_vae = false;
  void add_to(CLI::App& command);
  void apply() const;
  flame::Device chosen_device() const { return flame::Device::parse(device); }
  flame::DType chosen_dtype() const;
};

// `--model`, also under kohya's name, and the options for its parts.
void add_model(CLI::App& command, ModelFiles& model);
// The model that they name; prints what it predicts, and why.
Checkpoint open_model(const ModelFiles& model);

}  // namespace eri
