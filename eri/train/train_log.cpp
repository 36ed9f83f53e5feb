#include "eri/train/train_log.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "flame/core/error.h"

namespace eri {
namespace {

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  char out[32];
  if (whole >= 3600)
    std::snprintf(out, sizeof out, "%lld:%02lld:%02lld", static_cast<long long>(whole / 3600),
                  static_cast<long long>(whole / 60 % 60), static_cast<long long>(whole % 60));
  else
    std::snprintf(out, sizeof out, "%lld:%02lld", static_cast<long long>(whole / 60),
                  static_cast<long long>(whole % 60));
  return out;
}

}  // namespace

TrainLog::TrainLog(const std::filesystem::path& file, int64_t first_step, int64_t total_steps)
    : file_(file),
      first_step_(first_step),
      total_steps_(total_steps),
      start_(Clock::now()),
      to_stdout_(!::isatty(STDOUT_FILENO)) {
  if (!file_) flame::fail("cannot write the log ", file.string());
}

void TrainLog::step(const StepResult& result) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  nlohmann::ordered_json line = {{"step", result.step},           {"loss", result.loss},
                                 {"grad_norm", result.grad_norm}, {"learning_rate", result.learning_rate},
                                 {"skipped", result.skipped},     {"seconds", std::round(seconds * 1000) / 1000}};
  if (result.loss_scale) line["loss_scale"] = *result.loss_scale;
  file_ << line.dump() << std::endl;
  if (to_stdout_) std::cout << line.dump() << std::endl;

  if (result.loss_scale && result.loss_scale != loss_scale_)
    say(flame::text("losses are scaled by ", *result.loss_scale, " from step ", result.step + 1, " on",
                    result.skipped ? ": the gradient was not finite, so nothing moved" : ""));
  loss_scale_ = result.loss_scale;

  const bool first = result.step == first_step_, last = result.step == total_steps_;
  smoothed_loss_ = first ? result.loss : 0.95 * smoothed_loss_ + 0.05 * result.loss;
  if (first || last || line_.due()) show_progress(result, last);
}

void TrainLog::show_progress(const StepResult& result, bool last) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double each = seconds / static_cast<double>(result.step - first_step_ + 1);
  char line[160];
  std::snprintf(line, sizeof line, "step %lld/%lld  loss %.4f  %.0f ms a step  %s left%s",
                static_cast<long long>(result.step), static_cast<long long>(total_steps_), smoothed_loss_, each * 1000,
                duration(each * static_cast<double>(total_steps_ - result.step)).c_str(),
                result.skipped ? "  (gradient not finite: skipped)" : "");
  line_.show(line);
  if (last) line_.end();
}

void TrainLog::aside(const std::function<void()>& work) {
  const Clock::time_point begin = Clock::now();
  work();
  start_ += Clock::now() - begin;
}

}  // namespace eri
