// Times pictures of a full-size SDXL on a GPU, guided, as `eri sample` draws them: `bench_sampling --help`.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "eri/app/version.h"
#include "eri/models/synthetic.h"
#include "eri/sampling/sdxl_sampler.h"
#include "flame/core/error.h"
#include "flame/device/plan_cache.h"
#include "kernel_times.h"
#include "log.h"

namespace {

using flame::Device;
using flame::DType;
using nlohmann::json;

constexpr double GiB = 1 << 30;

struct Arguments {
  std::string checkpoint = "build/sdxl-synthetic.safetensors", dtype = "bf16", json, commit = eri::commit();
  int64_t pictures = 5, size = 1024;
  int steps = 20;
  bool kernels = false;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

json row(const char* what, const std::vector<float>& milliseconds) {
  json result = bench::spread(milliseconds);
  result["what"] = what;
  std::printf("  %-18s  median %8.2f ms  min %8.2f  max %8.2f\n", what, result["median_ms"].get<double>(),
              result["min_ms"].get<double>(), result["max_ms"].get<double>());
  return result;
}

void run(const Arguments& arguments) {
  const Device device = Device::cuda(0);
  if (!std::filesystem::exists(arguments.checkpoint)) {
    std::printf("making %s\n", arguments.checkpoint.c_str());
    eri::write_synthetic_checkpoint(arguments.checkpoint, eri::Geometry(), 0, DType::f16);
  }
  auto start = std::chrono::steady_clock::now();
  eri::SDXLSampler sampler(arguments.checkpoint, device, bench::parse_dtype(arguments.dtype));
  sampler.prepare();
  flame::synchronize(device);
  const double load = seconds_since(start);
  flame::reset_peak(device);

  const eri::SampleRequest request = {
      .prompt = "a lighthouse on a rock at dusk",
      .steps = arguments.steps,
      .options = {.negative_prompt = "blurred", .width = arguments.size, .height = arguments.size}};
  start = std::chrono::steady_clock::now();
  sampler.sample(request);  // chooses kernels and captures
  const double first = seconds_since(start);
  sampler.sample(request);

  std::vector<float> whole, text, step, decode;
  for (int64_t i = 0; i < arguments.pictures; ++i) {
    sampler.sample(request);
    const eri::SampleTimes& times = sampler.times();
    whole.push_back(static_cast<float>(1e3 * times.total()));
    text.push_back(static_cast<float>(1e3 * times.text));
    step.push_back(static_cast<float>(1e3 * times.steps / arguments.steps));
    decode.push_back(static_cast<float>(1e3 * times.decode));
  }
  const flame::MemoryUse memory = flame::memory_use(device);

  json log = bench::log_header("sampling", device, arguments.commit);
  std::printf("%s, %s, %ld x %ld, %d guided steps; loaded in %.2f s, first picture %.2f s, peak %.2f GiB, held %.2f\n",
              log["card"].get<std::string>().c_str(), arguments.dtype.c_str(), static_cast<long>(arguments.size),
              static_cast<long>(arguments.size), arguments.steps, load, first, static_cast<double>(memory.peak) / GiB,
              static_cast<double>(memory.reserved) / GiB);
  log.update(
      {{"dtype", arguments.dtype},
       {"size", arguments.size},
       {"steps", arguments.steps},
       {"load_s", load},
       {"first_picture_s", first},
       {"peak_gib", static_cast<double>(memory.peak) / GiB},
       {"held_gib", static_cast<double>(memory.reserved) / GiB},
       {"nvidia_smi_gib", bench::nvidia_smi_gib()},
       {"rows",
        {row("whole picture", whole), row("text", text), row("UNet, one step", step), row("decoding", decode)}}});
  flame::save_plans();
  if (arguments.kernels) {
    std::optional<eri::SDXLSampler> watched;  // captures its own graph
    const auto warm_up = [&] {
      watched.emplace(arguments.checkpoint, device, bench::parse_dtype(arguments.dtype));
      watched->sample(request);
    };
    log["profile"] = bench::kernel_rows(bench::kernel_times(warm_up, [&] { watched->sample(request); }));
    std::printf("  GPU busy for %.1f ms of a picture\n", log["profile"]["busy_us"].get<double>() / 1e3);
  }
  bench::write_log(arguments.json, log);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Pictures of a full-size SDXL on a GPU, guided, on synthetic weights");
  app.add_option("--checkpoint", arguments.checkpoint, "made, with synthetic weights, where it is missing")
      ->capture_default_str();
  app.add_option("--pictures", arguments.pictures, "timed ones")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--steps", arguments.steps)->capture_default_str();
  app.add_option("--size", arguments.size, "width and height")->capture_default_str();
  app.add_option("--dtype", arguments.dtype)->capture_default_str();
  app.add_option("--json", arguments.json, "file for the figures");
  app.add_option("--commit", arguments.commit, "what the figures are of")->capture_default_str();
  app.add_flag("--kernels", arguments.kernels, "also the time of each kernel");
  CLI11_PARSE(app, argc, argv);
  try {
    run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_sampling: %s\n", error.what());
    return 1;
  }
}
