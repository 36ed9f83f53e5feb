#include "eri/train/start_report.h"

#include <algorithm>
#include <cstdio>

namespace eri {
namespace {

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char out[128];
  std::snprintf(out, sizeof out, format, values...);
  return out;
}

}  // namespace

void StartReport::lap(const std::string& part) {
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - last_).count();
  last_ = now;
  const auto found = std::find_if(parts_.begin(), parts_.end(), [&](const Part& known) { return known.name == part; });
  if (found == parts_.end()) {
    parts_.push_back({part, seconds});
  } else {
    found->seconds += seconds;
  }
}

double StartReport::seconds(const std::string& part) const {
  const auto found = std::find_if(parts_.begin(), parts_.end(), [&](const Part& known) { return known.name == part; });
  return found == parts_.end() ? 0 : found->seconds;
}

std::string StartReport::line(size_t pictures) const {
  std::string line = "start:";
  double all = 0;
  for (const auto& [name, seconds] : parts_) {
    line += (all > 0 ? ", " : " ") + name + formatted(" %.2f s", seconds);
    if (name == "caching")
      line += formatted(" (%zu pictures, %.1f a second)", pictures, static_cast<double>(pictures) / seconds);
    all += seconds;
  }
  return line + formatted("; %.2f s in all", all);
}

std::string StartReport::loaded(size_t bytes) const {
  const double gigabytes = static_cast<double>(bytes) / 1e9, time = seconds("model");
  return formatted("loaded %.2f GB in %.2f s (%.1f GB/s)", gigabytes, time, gigabytes / time);
}

}  // namespace eri
