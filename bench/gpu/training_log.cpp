#include "training_log.h"

#include <algorithm>
#include <ctime>
#include <fstream>
#include <map>
#include <regex>

#include "eri/train/memory_estimate.h"

namespace bench {
namespace {

using flame::Purpose;
using nlohmann::json;

constexpr double kGiB = 1 << 30;

// An H100, SDXL's UNet at 1024 x 1024 without what a LoRA adds, as docs/benchmarks.md explains.
constexpr double kTflopPerSample = 14.349, kPeakTflops = 737;
const std::map<int64_t, double> kLibraryFloorMs = {{1, 50.1}, {2, 80.4}, {4, 147.5}};

std::string utc_now(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  char text[16];
  std::strftime(text, sizeof(text), format, &utc);
  return text;
}

json driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  std::smatch found;
  return std::regex_search(line, found, std::regex(R"(\d+\.\d+(\.\d+)*)")) ? json(found.str()) : json();
}

json predicted_gib(const TrainingSetup& setup, const StepFigures& figures) {
  const eri::MemoryEstimate estimate = eri::estimate_memory({.unet = {},
                                                             .policy = eri::parse_memory_policy(figures.policy),
                                                             .rank = setup.rank,
                                                             .samples = figures.batch,
                                                             .width = setup.size,
                                                             .height = setup.size});
  return {{"weights", static_cast<double>(estimate.weights) / kGiB},
          {"adapters", static_cast<double>(estimate.adapters) / kGiB},
          {"optimizer", static_cast<double>(estimate.optimizer) / kGiB},
          {"gradients", static_cast<double>(estimate.gradients) / kGiB},
          {"kept", static_cast<double>(estimate.kept) / kGiB},
          {"working", static_cast<double>(estimate.working) / kGiB}};
}

}  // namespace

float median(std::vector<float> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

json gib_by_purpose(const flame::MemoryUse& memory) {
  json result;
  double rest = static_cast<double>(memory.peak);
  for (size_t i = 0; i < static_cast<size_t>(Purpose::count); ++i) {
    const auto purpose = static_cast<Purpose>(i);
    if (purpose == Purpose::activations) continue;
    const auto bytes = static_cast<double>(memory.by_purpose[i]);
    result[flame::name(purpose)] = bytes / kGiB;
    rest -= bytes;
  }
  result[flame::name(Purpose::activations)] = rest / kGiB;
  return result;
}

json log_header(const TrainingSetup& setup) {
  return {{"date", utc_now("%Y-%m-%d")}, {"time", utc_now("%H:%M")},
          {"card", setup.card},          {"driver", driver_version()},
          {"commit", setup.commit},      {"transformers", setup.fused ? "fused" : "layer by layer"},
          {"dtype", setup.dtype},        {"rank", setup.rank},
          {"size", setup.size},          {"rows", json::array()}};
}

json log_row(const TrainingSetup& setup, const StepFigures& figures) {
  const auto [least, most] = std::minmax_element(figures.milliseconds.begin(), figures.milliseconds.end());
  const double milliseconds = median(figures.milliseconds);
  json row = {{"batch", figures.batch},
              {"policy", figures.policy},
              {"median_ms", milliseconds},
              {"min_ms", *least},
              {"max_ms", *most},
              {"first_s", figures.first_seconds},
              {"plain_ms", figures.plain_milliseconds},
              {"peak_gib", static_cast<double>(figures.memory.peak) / kGiB},
              {"held_gib", static_cast<double>(figures.memory.reserved) / kGiB},
              {"by_purpose_gib", gib_by_purpose(figures.memory)},
              {"nodes", figures.nodes}};
  if (setup.fused) row["predicted_gib"] = predicted_gib(setup, figures);
  if (setup.size != 1024) return row;
  const double tflops = kTflopPerSample * static_cast<double>(figures.batch) / milliseconds * 1e3;
  row["tflops"] = tflops;
  if (setup.card.find("H100") == std::string::npos) return row;
  row["percent_of_peak"] = 100 * tflops / kPeakTflops;
  if (const auto floor = kLibraryFloorMs.find(figures.batch); floor != kLibraryFloorMs.end())
    row["percent_of_floor"] = 100 * floor->second / milliseconds;
  return row;
}

json kernel_rows(const KernelTimes& all) {
  json rows = json::array();
  for (const KernelTime& kernel : all.kernels)
    rows.push_back({{"name", kernel.name}, {"calls", kernel.calls}, {"us", kernel.microseconds}});
  return {{"busy_us", all.busy_microseconds}, {"span_us", all.span_microseconds}, {"kernels", rows}};
}

}  // namespace bench
