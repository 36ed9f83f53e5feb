// How long a training step and a sampled picture of eri-tiny take, and where the time goes.
//
//     bench_step CHECKPOINT PICTURES_FOLDER THREADS TRAINING_STEPS PICTURES
//
// prints one JSON line a measurement, as bench/pytorch_step.py does, then the profile.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <vector>

#include "eri/sampling/sdxl_sampler.h"
#include "eri/train/trainer.h"
#include "flame/autograd/profile.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int warm_up = 3;

double milliseconds(Clock::duration time) { return std::chrono::duration<double, std::milli>(time).count(); }

// Milliseconds that the CPUs worked for this program.
double cpu_milliseconds() {
  rusage use;
  getrusage(RUSAGE_SELF, &use);
  const auto of = [](const timeval& time) {
    return 1e3 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_usec);
  };
  return of(use.ru_utime) + of(use.ru_stime);
}

// `about` is more JSON about what was measured.
void measure(const char* what, int count, const std::function<void()>& run, const std::string& about = "") {
  for (int i = 0; i < warm_up; ++i) run();
  std::vector<double> times;
  const double cpu = cpu_milliseconds();
  for (int i = 0; i < count; ++i) {
    const auto start = Clock::now();
    run();
    times.push_back(milliseconds(Clock::now() - start));
  }
  std::sort(times.begin(), times.end());
  std::printf(
      R"({"program": "eri", "what": "%s", "ms": %.2f, "min": %.2f, "max": %.2f, "cpu_ms": %.2f, "threads": %d%s})"
      "\n",
      what, times[times.size() / 2], times.front(), times.back(), (cpu_milliseconds() - cpu) / count, flame::threads(),
      about.c_str());
  std::fflush(stdout);
}

void profile(const char* what, int count, const std::function<void()>& run) {
  flame::set_threads(1);
  for (int i = 0; i < warm_up; ++i) run();
  const flame::Profile profile;
  for (int i = 0; i < count; ++i) run();

  using Line = std::pair<std::string, flame::Profile::Time>;
  std::vector<Line> lines(profile.times().begin(), profile.times().end());
  std::sort(lines.begin(), lines.end(),
            [](const Line& a, const Line& b) { return a.second.seconds > b.second.seconds; });
  double total = 0;
  for (const auto& [op, time] : lines) total += time.seconds;
  std::printf("\n%s, one thread: %.1f ms in ops\n", what, 1e3 * total / count);
  for (const auto& [op, time] : lines) {
    if (time.seconds < 0.01 * total) break;
    std::printf("  %-28s %6.0f calls %8.2f ms %5.1f %%\n", op.c_str(), static_cast<double>(time.calls) / count,
                1e3 * time.seconds / count, 100 * time.seconds / total);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: bench_step CHECKPOINT PICTURES_FOLDER THREADS TRAINING_STEPS PICTURES\n");
    return 2;
  }
  const std::string checkpoint = argv[1], folder = argv[2];
  const int threads = std::stoi(argv[3]), steps = std::stoi(argv[4]), pictures = std::stoi(argv[5]);
  flame::set_threads(threads);

  eri::SDXLSampler sampler(checkpoint);
  const eri::SampleRequest request = {.prompt = "blueprint of a cat face",
                                      .options = {.cfg = 4, .width = 128, .height = 128}};
  const auto picture = [&] { sampler.sample(request); };
  measure("picture", pictures, picture);

  const auto output = std::filesystem::temp_directory_path() / ("bench_step-" + std::to_string(getpid()));
  eri::TrainConfig config;
  config.pretrained_model_name_or_path = checkpoint;
  config.train_data_dir = folder;
  config.resolution = {128, 128};
  config.output_dir = output.string();
  config.network_dim = 8;
  config.network_alpha = 8;
  config.train_batch_size = 4;
  config.min_snr_gamma = 5;
  eri::Trainer trainer(config);
  std::filesystem::remove_all(output);
  const flame::ParameterPack& trained = trainer.parameters();
  measure(
      "training step", steps, [&] { trainer.step(); },
      flame::text(R"(, "modules": )", trained.parameters().size() / 2, R"(, "parameters": )", trained.numel()));

  profile("A picture", pictures, picture);
  profile("A training step", steps, [&] { trainer.step(); });
}
