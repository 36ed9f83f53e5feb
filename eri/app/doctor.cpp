#include <iomanip>
#include <iostream>

#include "eri/app/commands.h"
#include "eri/app/gpus.h"
#include "eri/app/self_test.h"
#include "flame/core/error.h"

namespace eri {
namespace {

constexpr double GiB = 1 << 30;

// What was found of GPUs; whether all that they need is there.
bool show_gpus() {
  if constexpr (!flame::cuda_build) {
    std::cout << "GPUs: this build has no CUDA (README.md says how to make one that has)" << std::endl;
    return false;
  } else {
    const GpuReport report = find_gpus();
    if (report.gpus.empty()) {
      std::cout << "GPUs: no NVIDIA GPU is to be seen here (" << report.missing << ")" << std::endl;
      return false;
    }
    std::cout << "driver: " << report.driver << "\ncuBLASLt: " << report.cublaslt << "\ncuDNN: " << report.cudnn
              << "\n";
    for (size_t i = 0; i < report.gpus.size(); ++i) {
      const auto& [name, major, minor, free, total] = report.gpus[i];
      std::cout << "cuda:" << i << ": " << name << ", compute capability " << major << "." << minor << ", "
                << static_cast<double>(free) / GiB << " of " << static_cast<double>(total) / GiB << " GiB free\n";
    }
    return report.usable;
  }
}

void run(const Machine& machine) {
  std::cout << std::setprecision(3) << "CPU: " << flame::threads() << " threads" << std::endl;
  const bool gpus = show_gpus();
  machine.apply();
  const flame::Device device = machine.chosen_device();
  std::cout << "train and sample will compute on " << device << " in " << machine.chosen_dtype() << std::endl;
  if (device.is_cuda() && !gpus) flame::fail("a library that the GPU needs cannot be used; see above");

  std::cout << "self-test of " << device << ":" << std::endl;
  if (!self_test(device, std::cout)) flame::fail(device, " gives wrong numbers; see above");
  std::cout << "all is well" << std::endl;
}

}  // namespace

void add_doctor(CLI::App& app) {
  auto* command = app.add_subcommand("doctor", "Say what this machine has for training, and test it for some seconds");
  auto machine = std::make_shared<Machine>();
  machine->add_to(*command);
  command->callback([machine] { run(*machine); });
}

}  // namespace eri
