#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>

#include "eri/train/progress_line.h"

namespace eri {

struct StepResult {
  int64_t step = 0;      // counts from 1
  double loss = 0;       // mean over the step's pictures
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  bool skipped = false;              // the gradient was not finite, so nothing moved
  std::optional<double> loss_scale;  // of the steps to come, where losses are scaled: in fp16
};

// What a run shows: one JSON object a step in a file (and on standard output where that is no terminal), and a line
// for people on standard error with loss, speed and time left.
class TrainLog {
 public:
  TrainLog(const std::filesystem::path& file, int64_t first_step, int64_t total_steps);
  void step(const StepResult& result);
  void say(const std::string& message) { line_.say(message); }  // a line of its own, for people
  void aside(const std::function<void()>& work);                // runs it; its time is not training's

 private:
  using Clock = std::chrono::steady_clock;
  void show_progress(const StepResult& result, bool last);

  std::ofstream file_;
  int64_t first_step_, total_steps_;
  Clock::time_point start_;
  double smoothed_loss_ = 0;
  std::optional<double> loss_scale_;  // last seen
  bool to_stdout_;
  ProgressLine line_;
};

}  // namespace eri
