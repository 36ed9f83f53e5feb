#pragma once

#include <array>
#include <string>
#include <vector>

#include "eri/lora/names.h"
#include "flame/io/safetensors.h"

namespace eri {

// The programs that load LoRAs for SDXL, and what of a file each of them takes: every one knows some names of modules
// and passes over the others, mostly in silence.
enum class Program { comfyui, forge, a1111, diffusers, sd_scripts, sd_cpp };
inline constexpr std::array programs = {Program::comfyui,   Program::forge,      Program::a1111,
                                        Program::diffusers, Program::sd_scripts, Program::sd_cpp};
const char* name_of(Program program);

// Whether a program finds the layer of a module that the file calls `written`.
bool loads(Program program, const LoraNames::Module& module, const std::string& written);

struct Loaded {
  Program program;
  size_t modules;
};
std::vector<Loaded> modules_loaded(const flame::SafetensorsFile& file, const LoraTargets& targets);

}  // namespace eri
