#include <cuda_runtime.h>

#include <fstream>
#include <functional>

#include "eri/app/gpus.h"
#include "flame/core/error.h"
#include "flame/device/cuda.h"
#include "flame/ops/libraries_cuda.h"

namespace eri {
namespace {

using flame::cuda::check;

// "580.159.03", as the kernel module says, and the newest CUDA that it knows.
std::string driver_version() {
  std::string word, version = "of unknown version";
  std::ifstream file("/proc/driver/nvidia/version");
  while (file >> word) {
    if (word.find('.') == word.npos || word.find_first_not_of("0123456789.") != word.npos) continue;
    version = word;
    break;
  }
  int cuda = 0;
  check(cudaDriverGetVersion(&cuda));
  return flame::text(version, ", for CUDA up to ", cuda / 1000, ".", cuda % 1000 / 10);
}

Gpu look_at(int index) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index));
  Gpu gpu{properties.name, properties.major, properties.minor, 0, 0};
  int current = 0;
  check(cudaGetDevice(&current));
  check(cudaSetDevice(index));
  check(cudaMemGetInfo(&gpu.free, &gpu.total));
  check(cudaSetDevice(current));  // as FLAME left it
  return gpu;
}

}  // namespace

GpuReport find_gpus() {
  GpuReport report = {};
  report.usable = true;
  const auto found = [&](const std::function<std::string()>& look) {
    try {
      return look();
    } catch (const flame::Error& error) {
      report.usable = false;
      return std::string(error.what());
    }
  };
  report.driver = found(driver_version);
  report.cublaslt = found(flame::cuda::cublaslt_version);
  report.cudnn = found(flame::cuda::cudnn_version);
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  report.missing = cudaGetErrorString(status);
  for (int i = 0; status == cudaSuccess && i < count; ++i) report.gpus.push_back(look_at(i));
  report.usable &= !report.gpus.empty();
  return report;
}

}  // namespace eri
