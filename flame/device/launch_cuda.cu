#include <atomic>
#include <cstdlib>
#include <string_view>

#include "flame/device/device_state_cuda.h"
#include "flame/device/launch_cuda.h"

namespace flame::cuda {
namespace {

bool wanted() {
  const char* const said = std::getenv("FLAME_EARLY_LAUNCHES");
  return !said || said != std::string_view("off");
}

std::atomic<bool> early_launches = wanted();

__global__ void waiting_kernel() { take_turn(); }

}  // namespace

bool kernels_wait() {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, waiting_kernel) == cudaSuccess) return attributes.ptxVersion >= 90;
  cudaGetLastError();  // the first launch will say what is wrong
  return false;
}

void set_early_launches(bool allowed) { early_launches = allowed; }

cudaLaunchConfig_t configuration(const LaunchGrid& grid, cudaLaunchAttribute& early) {
  early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = grid.stream;
  config.attrs = &early;
  const DeviceState* device = current_state();
  config.numAttrs = device && device->kernels_wait && early_launches ? 1 : 0;
  return config;
}

}  // namespace flame::cuda
