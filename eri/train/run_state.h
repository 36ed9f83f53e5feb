#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "eri/train/base_fingerprint.h"
#include "eri/train/config.h"
#include "flame/core/tensor.h"

namespace eri {

// All that a run needs to go on bit for bit: a folder with state.safetensors (tensors) and run.json (the rest).
struct RunState {
  int64_t step = 0;     // optimiser steps made
  TrainConfig config;   // that the run was started with
  std::string dataset;  // fingerprint of the pictures and captions
  std::map<std::string, flame::Tensor> tensors;
  BaseFingerprint base;  // nothing where it was not noted yet
};

// Written aside, then renamed: `folder` is there only when it is complete, and a state that was there before is
// replaced in one move. Throws naming the folder and the reason.
void save_state(const std::filesystem::path& folder, const RunState& state);

// Quick: the tensors are read when they are used. Throws naming the file and what is wrong with it.
RunState load_state(const std::filesystem::path& folder);

}  // namespace eri
