#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "eri/models/fused_unet.h"
#include "flame/device/device.h"
#include "log.h"

// What bench_training writes down, for tools/gpu_report.py.
namespace bench {

struct TrainingSetup {
  std::string commit, dtype;
  bool fused = true;
  int64_t rank = 16, size = 1024;
  size_t modules = 0;
  int64_t parameters = 0;
  double limit_gib = 0;  // 0: none
};

// What the allocator took of the CPU while a step took `milliseconds` of the GPU.
struct Allocations {
  int64_t calls = 0;
  double allocator_milliseconds = 0, milliseconds = 0;
};

struct StepFigures {
  int64_t batch = 1;
  std::string policy;
  std::vector<float> milliseconds;  // of each timed step
  double first_seconds = 0;         // of the first step, which chooses kernels
  Allocations plain, captured;      // of the second step, which the CPU launches, and of the mean timed one
  flame::MemoryUse memory;          // since reset_peak()
  size_t nodes = 0;                 // of the step's graphs
};

// GiB at the peak: activations are what the other purposes, which do not change within a step, leave of it.
nlohmann::json gib_by_purpose(const flame::MemoryUse& memory);

// The log without rows: the head, what was run, and what the card reaches.
nlohmann::json training_log(const TrainingSetup& setup, flame::Device device);
nlohmann::json log_row(const TrainingSetup& setup, const nlohmann::json& log, const StepFigures& figures);

}  // namespace bench
