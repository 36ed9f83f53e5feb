#include "training_log.h"

#include <map>

#include "eri/train/memory_estimate.h"

namespace bench {
namespace {

using flame::Purpose;
using nlohmann::json;

constexpr double kGiB = 1 << 30;

// An H100, SDXL's UNet at 1024 x 1024 without what a LoRA adds, as docs/benchmarks.md explains.
constexpr double kTflopPerSample = 14.349, kPeakTflops = 737;
const std::map<int64_t, double> kLibraryFloorMs = {{1, 50.1}, {2, 80.4}, {4, 147.5}};

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

json share(const Allocations& allocations) {
  return {{"calls", allocations.calls},
          {"ms", allocations.allocator_milliseconds},
          {"percent", 100 * allocations.allocator_milliseconds / allocations.milliseconds}};
}

}  // namespace

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

json training_log(const TrainingSetup& setup, flame::Device device) {
  json log = log_header("training", device, setup.commit);
  log.update({{"dtype", setup.dtype},
              {"rank", setup.rank},
              {"size", setup.size},
              {"transformers", setup.fused ? "fused" : "layer by layer"},
              {"modules", setup.modules},
              {"parameters", setup.parameters},
              {"limit_gib", setup.limit_gib > 0 ? json(setup.limit_gib) : json()},
              {"ceilings", measure_ceilings(device)}});
  return log;
}

json log_row(const TrainingSetup& setup, const json& log, const StepFigures& figures) {
  const double milliseconds = median(figures.milliseconds);
  json row = spread(figures.milliseconds);
  row.update({{"batch", figures.batch},
              {"policy", figures.policy},
              {"first_s", figures.first_seconds},
              {"plain_ms", figures.plain.milliseconds},
              {"allocations", {{"plain", share(figures.plain)}, {"captured", share(figures.captured)}}},
              {"peak_gib", static_cast<double>(figures.memory.peak) / kGiB},
              {"held_gib", static_cast<double>(figures.memory.reserved) / kGiB},
              {"nvidia_smi_gib", nvidia_smi_gib()},
              {"by_purpose_gib", gib_by_purpose(figures.memory)},
              {"nodes", figures.nodes}});
  if (setup.fused) row["predicted_gib"] = predicted_gib(setup, figures);
  if (setup.size != 1024) return row;
  const double tflops = kTflopPerSample * static_cast<double>(figures.batch) / milliseconds * 1e3;
  row["tflops"] = tflops;
  row["percent_of_gemm"] = 100 * tflops / log.at("ceilings").at("gemm_tflops").get<double>();
  if (log.at("card").get<std::string>().find("H100") == std::string::npos) return row;
  row["percent_of_peak"] = 100 * tflops / kPeakTflops;
  if (const auto floor = kLibraryFloorMs.find(figures.batch); floor != kLibraryFloorMs.end())
    row["percent_of_floor"] = 100 * floor->second / milliseconds;
  return row;
}

}  // namespace bench
