// Times the training step of the full-size UNet on a GPU, on synthetic weights: `bench_training --help`.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "bench_commit.h"
#include "eri/diffusion/noise_schedule.h"
#include "eri/lora/lora.h"
#include "eri/models/synthetic.h"
#include "eri/models/unet.h"
#include "eri/train/train_step.h"
#include "flame/device/cuda.h"
#include "flame/device/plan_cache.h"
#include "flame/ops/loss.h"
#include "flame/ops/pointwise.h"
#include "flame/optim/adamw.h"
#include "training_log.h"

namespace {

using namespace eri;
using flame::Device;
using flame::DType;

constexpr double GiB = 1 << 30;

struct Arguments {
  std::vector<int64_t> batch_sizes = {1};
  std::vector<std::string> policies = {"lean"};
  int64_t rank = 16, size = 1024, steps = 20;
  std::string dtype = "bf16", json, commit = BENCH_COMMIT;
  bool plain = false, graphs = true, kernels = false;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

DType parse_dtype(const std::string& name) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    if (name == flame::name(dtype)) return dtype;
  flame::fail("unknown dtype ", name);
}

CachedDataset::Batch random_batch(int64_t samples, int64_t size, Device device) {
  flame::PurposeScope purpose(flame::Purpose::data);
  flame::Generator generator(1);
  const auto side = static_cast<float>(size);
  const Tensor ids = Tensor::from(std::vector<float>{side, side, 0, 0, side, side}, {1, 6});
  std::vector<float> all;
  for (int64_t i = 0; i < samples; ++i)
    for (float id : ids.to_host<float>()) all.push_back(id);
  return {Tensor::randn({samples, 4, size / 8, size / 8}, generator, device),
          {Tensor::randn({samples, 77, 2048}, generator, device), Tensor::randn({samples, 1280}, generator, device),
           Tensor::from(all, {samples, 6}, device)}};
}

// Milliseconds of each of `steps` steps, between events on the device's stream.
std::vector<float> step_times(TrainStep& step, int64_t& number, const CachedDataset::Batch& batch, int64_t steps,
                              Device device) {
  std::vector<cudaEvent_t> events(static_cast<size_t>(steps + 1));
  for (cudaEvent_t& event : events) flame::cuda::check(cudaEventCreate(&event));
  const cudaStream_t stream = flame::cuda::stream(device);
  flame::cuda::check(cudaEventRecord(events[0], stream));
  for (int64_t i = 0; i < steps; ++i) {
    step.queue(++number, 1e-4, {batch});
    flame::cuda::check(cudaEventRecord(events[static_cast<size_t>(i + 1)], stream));
  }
  flame::synchronize(device);
  std::vector<float> times(static_cast<size_t>(steps));
  for (size_t i = 0; i < times.size(); ++i)
    flame::cuda::check(cudaEventElapsedTime(&times[i], events[i], events[i + 1]));
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  return times;
}

void print_kernels(const bench::KernelTimes& all) {
  std::printf("  busy %.2f ms of %.2f ms\n", all.busy_microseconds / 1e3, all.span_microseconds / 1e3);
  for (size_t i = 0; i < std::min<size_t>(all.kernels.size(), 60); ++i)
    std::printf("  %9.1f us %6ld x %8.2f us  %s\n", all.kernels[i].microseconds,
                static_cast<long>(all.kernels[i].calls),
                all.kernels[i].microseconds / static_cast<double>(all.kernels[i].calls), all.kernels[i].name.c_str());
}

void print(const bench::StepFigures& figures, const StepResult& first, const StepResult& last) {
  const auto [least, most] = std::minmax_element(figures.milliseconds.begin(), figures.milliseconds.end());
  std::printf(
      "batch %2ld %-8s  median %8.2f ms  min %8.2f  max %8.2f   first %6.2f s, plain %8.2f ms   peak %6.2f GiB, "
      "held %6.2f   %zu nodes   loss %.6f .. %.6f norm %.4f\n ",
      static_cast<long>(figures.batch), figures.policy.c_str(), bench::median(figures.milliseconds), *least, *most,
      figures.first_seconds, figures.plain_milliseconds, figures.memory.peak / GiB, figures.memory.reserved / GiB,
      figures.nodes, first.loss, last.loss, last.grad_norm);
  const nlohmann::json by_purpose = bench::gib_by_purpose(figures.memory);
  for (const auto& [purpose, gib] : by_purpose.items()) std::printf(" %s %.3f", purpose.c_str(), gib.get<double>());
  std::printf(" GiB\n");
  std::fflush(stdout);
}

void run(const Arguments& arguments) {
  const Device device = Device::cuda(0);
  std::printf("%s, %s, rank %ld, %ld x %ld\n", flame::cuda::properties(device).name, arguments.dtype.c_str(),
              static_cast<long>(arguments.rank), static_cast<long>(arguments.size), static_cast<long>(arguments.size));
  auto start = std::chrono::steady_clock::now();
  const SyntheticCheckpoint source(Geometry(), 0, unet_prefix);
  const DType unet_dtype = parse_dtype(arguments.dtype);
  UNet unet(flame::Scope(source, unet_dtype, device));
  flame::synchronize(device);
  std::printf("weights made in %.1f s, %.2f GiB\n", seconds_since(start), flame::memory_use(device).current / GiB);

  const LoraTargets targets = lora_targets(unet, LoraPart::unet);
  const LoraOptions lora = {.dim = arguments.rank, .alpha = static_cast<double>(arguments.rank)};
  const LoraNetwork network(targets, lora, arguments.plain ? unet_dtype : DType::f32);
  std::printf("%zu modules, %ld parameters\n", network.lora().modules().size(),
              static_cast<long>(network.parameters().numel()));
  flame::AdamW optimizer(network.parameters(), {});
  flame::Generator generator(7);
  const NoiseSchedule schedule(false, device);
  const auto loss = [&](const Tensor& latents, const Tensor& noise, const Tensor& timesteps,
                        const Conditioning& condition) {
    const Tensor guess = unet(schedule.add_noise(latents, noise, timesteps), timesteps, condition.context,
                              condition.pooled, condition.time_ids);
    return flame::mse_loss(guess.to(DType::f32), noise);
  };
  if (!arguments.plain) {
    unet.fuse();
    flame::synchronize(device);
    std::printf("fused, %.2f GiB\n", flame::memory_use(device).current / GiB);
  }

  const bench::TrainingSetup setup = {flame::cuda::properties(device).name,
                                      arguments.commit,
                                      arguments.dtype,
                                      !arguments.plain,
                                      arguments.rank,
                                      arguments.size};
  nlohmann::json log = bench::log_header(setup);
  nlohmann::json& rows = log["rows"];
  for (const std::string& policy : arguments.policies) {
    if (!arguments.plain) unet.set_memory_policy(parse_memory_policy(policy));
    for (int64_t samples : arguments.batch_sizes) {
      try {
        flame::release_cache(device);
        flame::reset_peak(device);
        const CachedDataset::Batch batch = random_batch(samples, arguments.size, device);
        TrainStep step(loss, optimizer, generator, {.max_grad_norm = 1, .graphs = arguments.graphs},
                       [&] { unet.refresh(); });
        int64_t number = 0;
        start = std::chrono::steady_clock::now();
        step_times(step, number, batch, 1, device);
        const double first = seconds_since(start);
        const double plain = step_times(step, number, batch, 3, device)[0];
        const std::vector<float> times = step_times(step, number, batch, arguments.steps, device);
        const auto results = step.results(true);
        const bench::StepFigures figures = {samples,           policy, times, first, plain, flame::memory_use(device),
                                            step.graph_nodes()};
        rows.push_back(bench::log_row(setup, figures));
        print(figures, results.front(), results.back());
        if (arguments.kernels) {
          const bench::KernelTimes kernels = bench::kernel_times([&] {
            step.queue(++number, 1e-4, {batch});
            flame::synchronize(device);
          });
          step.results(true);
          print_kernels(kernels);
          rows.back()["profile"] = bench::kernel_rows(kernels);
        }
      } catch (const flame::Error& error) {
        std::printf("batch %2ld %-8s  %s\n", static_cast<long>(samples), policy.c_str(), error.what());
      }
    }
  }
  flame::save_plans();
  if (!arguments.json.empty()) std::ofstream(arguments.json) << log.dump(1) << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("The training step of SDXL's UNet on a GPU, on synthetic weights");
  app.add_option("--batch", arguments.batch_sizes, "batch sizes")->delimiter(',')->capture_default_str();
  app.add_option("--memory", arguments.policies, "lean, ff, attn_ff, block")->delimiter(',')->capture_default_str();
  app.add_option("--rank", arguments.rank)->capture_default_str();
  app.add_option("--size", arguments.size, "width and height of the pictures")->capture_default_str();
  app.add_option("--steps", arguments.steps, "timed steps")->capture_default_str();
  app.add_option("--dtype", arguments.dtype)->capture_default_str();
  app.add_option("--json", arguments.json, "file for the figures");
  app.add_option("--commit", arguments.commit, "what the figures are of")->capture_default_str();
  app.add_flag("--plain", arguments.plain, "layer by layer, not fused");
  app.add_flag("!--no-graph", arguments.graphs, "launch every kernel from the CPU");
  app.add_flag("--kernels", arguments.kernels, "also the time of each kernel");
  CLI11_PARSE(app, argc, argv);
  try {
    run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_training: %s\n", error.what());
    return 1;
  }
}
