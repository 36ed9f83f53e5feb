// Times the full-size autoencoder of SDXL on a GPU, on synthetic weights: `bench_vae --help`.
#include "eri/models/vae.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "eri/app/version.h"
#include "eri/models/synthetic.h"
#include "flame/core/error.h"
#include "flame/device/plan_cache.h"
#include "kernel_times.h"
#include "log.h"

namespace {

using eri::Tensor;
using flame::Device;
using flame::DType;
using nlohmann::json;

constexpr double GiB = 1 << 30;

struct Arguments {
  std::vector<std::string> dtypes = {"bf16", "f32"};
  std::vector<int64_t> batch_sizes = {1, 4};
  int64_t size = 1024, calls = 20;
  double max_vram = 0;
  std::string json, commit = eri::commit();
  bool kernels = false;
};

void print_kernels(const json& profile) {
  std::printf("    busy %.2f ms of %.2f ms\n", profile["busy_us"].get<double>() / 1e3,
              profile["span_us"].get<double>() / 1e3);
  for (const json& kernel : profile["kernels"])
    std::printf("    %9.1f us %5d x  %s\n", kernel["us"].get<double>(), kernel["calls"].get<int>(),
                kernel["name"].get<std::string>().c_str());
}

json measure(const Arguments& arguments, Device device, const std::function<Tensor()>& work) {
  flame::release_cache(device);
  work();  // chooses kernels
  flame::synchronize(device);
  flame::reset_peak(device);
  const size_t before = flame::memory_use(device).current;
  work();
  json row = bench::spread(bench::call_times(device, arguments.calls, [&] { work(); }));
  const size_t peak = flame::memory_use(device).peak;
  row["peak_gib"] = static_cast<double>(peak) / GiB;
  row["working_gib"] = static_cast<double>(peak - before) / GiB;
  if (arguments.kernels) {
    const auto whole = [&] {
      work();
      flame::synchronize(device);
    };
    row["profile"] = bench::kernel_rows(bench::kernel_times(whole, whole));
  }
  return row;
}

void run(const Arguments& arguments) {
  const Device device = Device::cuda(0);
  flame::set_memory_limit(device, static_cast<size_t>(arguments.max_vram * GiB));
  json log = bench::log_header("vae", device, arguments.commit);
  std::printf("%s, %ld x %ld\n", log["card"].get<std::string>().c_str(), static_cast<long>(arguments.size),
              static_cast<long>(arguments.size));
  const auto weights = std::make_shared<eri::SyntheticCheckpoint>(eri::Geometry(), 0, eri::vae_prefix);
  for (const std::string& dtype : arguments.dtypes) {
    const eri::VAE vae(weights, bench::parse_dtype(dtype), device);
    for (const int64_t batch : arguments.batch_sizes) {
      flame::Generator generator(1);
      const Tensor picture = Tensor::randn({batch, 3, arguments.size, arguments.size}, generator, device);
      const Tensor latents = Tensor::randn({batch, 4, arguments.size / 8, arguments.size / 8}, generator, device);
      const auto add = [&](const char* what, const std::function<Tensor()>& work) {
        json row = measure(arguments, device, work);
        row.update({{"what", what}, {"dtype", dtype}, {"batch", batch}, {"size", arguments.size}});
        std::printf(
            "  %s %-4s batch %ld  median %8.2f ms  min %8.2f  max %8.2f   peak %6.3f GiB, of which working %6.3f\n",
            what, dtype.c_str(), static_cast<long>(batch), row["median_ms"].get<double>(), row["min_ms"].get<double>(),
            row["max_ms"].get<double>(), row["peak_gib"].get<double>(), row["working_gib"].get<double>());
        if (arguments.kernels) print_kernels(row["profile"]);
        std::fflush(stdout);
        log["rows"].push_back(row);
      };
      add("encode", [&] { return vae.encode(picture); });
      add("decode", [&] { return vae.decode(latents); });
    }
  }
  flame::save_plans();
  bench::write_log(arguments.json, log);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("The autoencoder of SDXL on a GPU, on synthetic weights");
  app.add_option("--dtype", arguments.dtypes, "bf16, f16, f32")->delimiter(',')->capture_default_str();
  app.add_option("--batch", arguments.batch_sizes, "pictures at a time")->delimiter(',')->capture_default_str();
  app.add_option("--size", arguments.size, "width and height of the pictures")->capture_default_str();
  app.add_option("--calls", arguments.calls, "timed ones")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--max_vram", arguments.max_vram, "GiB; 0: no limit")->capture_default_str();
  app.add_option("--json", arguments.json, "file for the figures");
  app.add_option("--commit", arguments.commit, "what the figures are of")->capture_default_str();
  app.add_flag("--kernels", arguments.kernels, "also the time of each kernel");
  CLI11_PARSE(app, argc, argv);
  try {
    run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_vae: %s\n", error.what());
    return 1;
  }
}
