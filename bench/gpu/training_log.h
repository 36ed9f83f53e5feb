#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "eri/models/fused_unet.h"
#include "flame/device/device.h"
#include "kernel_times.h"

// What bench_training writes down, for tools/gpu_report.py.
namespace bench {

struct TrainingSetup {
  std::string card, commit, dtype;
  bool fused = true;
  int64_t rank = 16, size = 1024;
};

struct StepFigures {
  int64_t batch = 1;
  std::string policy;
  std::vector<float> milliseconds;  // of each timed step
  double first_seconds = 0;         // of the first step, which chooses kernels
  double plain_milliseconds = 0;    // of the second, which the CPU launches
  flame::MemoryUse memory;          // since reset_peak()
  size_t nodes = 0;                 // of the step's graphs
};

float median(std::vector<float> values);

// GiB at the peak: activations are what the other purposes, which do not change within a step, leave of it.
nlohmann::json gib_by_purpose(const flame::MemoryUse& memory);

// The log without rows: date and time (UTC), card, driver, commit and what was run.
nlohmann::json log_header(const TrainingSetup& setup);
nlohmann::json log_row(const TrainingSetup& setup, const StepFigures& figures);
nlohmann::json kernel_rows(const KernelTimes& all);

}  // namespace bench
