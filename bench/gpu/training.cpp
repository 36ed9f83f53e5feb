// Times the training step of the full-size UNet on a GPU, on synthetic weights: `bench_training --help`.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "eri/app/version.h"
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
#include "kernel_times.h"
#include "training_log.h"

namespace {

using namespace eri;
using flame::Device;
using flame::DType;

constexpr double GiB = 1 << 30;

struct Arguments {
  std::vector<int64_t> batch_sizes = {1}, kernels;
  std::vector<std::string> policies = {"lean"};
  int64_t rank = 16, size = 1024, steps = 20;
  double limit_gib = 0;
  std::string dtype = "bf16", json, commit = eri::commit();
  bool plain = false, graphs = true, busy = false;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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

void print_kernels(const bench::KernelTimes& all) {
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
      figures.first_seconds, figures.plain.milliseconds, figures.memory.peak / GiB, figures.memory.reserved / GiB,
      figures.nodes, first.loss, last.loss, last.grad_norm);
  const nlohmann::json by_purpose = bench::gib_by_purpose(figures.memory);
  for (const auto& [purpose, gib] : by_purpose.items()) std::printf(" %s %.3f", purpose.c_str(), gib.get<double>());
  std::printf(" GiB\n");
  std::fflush(stdout);
}

// What one batch size and one policy take: a TrainStep of its own, from its first step on.
class Measurement {
 public:
  Measurement(std::function<std::unique_ptr<TrainStep>()> make, int64_t samples, const Arguments& arguments,
              Device device)
      : arguments_(arguments), device_(device), batch_(random_batch(samples, arguments.size, device)), step_(make()) {}

  bench::StepFigures figures(const std::string& policy) {
    bench::StepFigures result;
    result.batch = batch_.latents.dim(0);
    result.policy = policy;
    const auto start = std::chrono::steady_clock::now();
    times(1);
    result.first_seconds = seconds_since(start);
    result.plain = watched(1);
    times(arguments_.graphs ? 2 : 0);  // captures
    result.captured = watched(arguments_.steps, &result.milliseconds);
    result.memory = flame::memory_use(device_);
    result.nodes = step_->graph_nodes();
    return result;
  }

  bench::KernelTimes kernels() {
    return bench::kernel_times([&] { times(4); }, [&] { times(1); });
  }

  std::vector<StepResult> results() { return step_->results(true); }

 private:
  std::vector<float> times(int64_t steps) {
    return bench::call_times(device_, steps, [&] { step_->queue(++number_, 1e-4, {batch_}); });
  }

  // The mean step's.
  bench::Allocations watched(int64_t steps, std::vector<float>* milliseconds = nullptr) {
    const flame::AllocationWatch watch(device_);
    const std::vector<float> taken = times(steps);
    if (milliseconds) *milliseconds = taken;
    return {watch.calls() / steps, 1e3 * watch.seconds() / static_cast<double>(steps), bench::median(taken)};
  }

  const Arguments& arguments_;
  Device device_;
  CachedDataset::Batch batch_;
  std::unique_ptr<TrainStep> step_;
  int64_t number_ = 0;
};

void run(const Arguments& arguments) {
  const Device device = Device::cuda(0);
  flame::set_memory_limit(device, static_cast<size_t>(arguments.limit_gib * GiB));
  std::printf("%s, %s, rank %ld, %ld x %ld\n", flame::cuda::properties(device).name, arguments.dtype.c_str(),
              static_cast<long>(arguments.rank), static_cast<long>(arguments.size), static_cast<long>(arguments.size));
  const auto start = std::chrono::steady_clock::now();
  const SyntheticCheckpoint source(Geometry(), 0, unet_prefix);
  const DType unet_dtype = bench::parse_dtype(arguments.dtype);
  UNet unet(flame::Scope(source, unet_dtype, device));
  flame::synchronize(device);
  std::printf("weights made in %.1f s, %.2f GiB\n", seconds_since(start), flame::memory_use(device).current / GiB);

  const bool fused = !arguments.plain && unet.can_fuse();
  const LoraTargets targets = lora_targets(unet, LoraPart::unet);
  const LoRA lora = new_lora(targets, {.dim = arguments.rank, .alpha = static_cast<double>(arguments.rank)});
  const LoraNetwork network(targets, lora, fused ? DType::f32 : unet_dtype);
  const bench::TrainingSetup setup = {.commit = arguments.commit,
                                      .dtype = arguments.dtype,
                                      .fused = fused,
                                      .rank = arguments.rank,
                                      .size = arguments.size,
                                      .modules = network.lora().modules().size(),
                                      .parameters = network.parameters().numel(),
                                      .limit_gib = arguments.limit_gib};
  std::printf("%zu modules, %ld parameters\n", setup.modules, static_cast<long>(setup.parameters));
  flame::AdamW optimizer(network.parameters(), {});
  if (unet_dtype == DType::f16) optimizer.scale_losses();
  flame::Generator generator(7);
  const NoiseSchedule schedule(false, device);
  const auto loss = [&](const Tensor& latents, const TrainingNoise& noise, const Conditioning& condition) {
    const Tensor guess = unet(schedule.add_noise(latents, noise.added, noise.timesteps), noise.timesteps,
                              condition.context, condition.pooled, condition.time_ids);
    return flame::mse_loss(guess.to(DType::f32), noise.noise);
  };
  const auto train_step = [&] {
    const TrainStep::Options options = {.max_grad_norm = 1, .graphs = arguments.graphs};
    return std::make_unique<TrainStep>(loss, optimizer, generator, options, [&] { unet.refresh(); });
  };
  if (fused) {
    unet.fuse();
    flame::synchronize(device);
    std::printf("fused, %.2f GiB\n", flame::memory_use(device).current / GiB);
  }

  nlohmann::json log = bench::training_log(setup, device);
  std::printf("a product of this card's %.0f TFLOP/s, a copy %.2f TB/s\n", log["ceilings"]["gemm_tflops"].get<double>(),
              log["ceilings"]["copy_tb_s"].get<double>());
  const auto begin = [&](const std::string& policy) {
    if (fused) unet.set_memory_policy(parse_memory_policy(policy));
    flame::release_cache(device);
    flame::reset_peak(device);
  };
  for (const std::string& policy : arguments.policies) {
    for (int64_t samples : arguments.batch_sizes) {
      try {
        begin(policy);
        Measurement measurement(train_step, samples, arguments, device);
        const bench::StepFigures figures = measurement.figures(policy);
        log["rows"].push_back(bench::log_row(setup, log, figures));
        const std::vector<StepResult> results = measurement.results();
        print(figures, results.front(), results.back());
      } catch (const flame::Error& error) {
        std::printf("batch %2ld %-8s  %s\n", static_cast<long>(samples), policy.c_str(), error.what());
      }
    }
  }
  flame::save_plans();
  bench::write_log(arguments.json, log);
  // After all times have been taken, because being watched slows a step down.
  for (nlohmann::json& row : log["rows"]) {
    const int64_t samples = row["batch"];
    const bool each = std::count(arguments.kernels.begin(), arguments.kernels.end(), samples) != 0;
    if (!each && !arguments.busy) continue;
    begin(row["policy"]);
    const bench::KernelTimes kernels = Measurement(train_step, samples, arguments, device).kernels();
    row["busy_us"] = kernels.busy_microseconds;
    std::printf("batch %2ld %-8s  GPU busy for %.2f ms\n", static_cast<long>(samples),
                row["policy"].get<std::string>().c_str(), kernels.busy_microseconds / 1e3);
    if (!each) continue;
    print_kernels(kernels);
    row["profile"] = bench::kernel_rows(kernels);
  }
  bench::write_log(arguments.json, log);
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
  app.add_option("--limit_gib", arguments.limit_gib, "the most of the card's memory to use")->capture_default_str();
  app.add_option("--json", arguments.json, "file for the figures");
  app.add_option("--commit", arguments.commit, "what the figures are of")->capture_default_str();
  app.add_flag("--plain", arguments.plain, "layer by layer, not fused");
  app.add_flag("!--no-graph", arguments.graphs, "launch every kernel from the CPU");
  app.add_flag("--busy", arguments.busy, "also how long the GPU has work in a step");
  app.add_option("--kernels", arguments.kernels, "batch sizes of which each kernel is timed, too")->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  try {
    run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_training: %s\n", error.what());
    return 1;
  }
}
