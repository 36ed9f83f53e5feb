#pragma once

#include <type_traits>

#include "flame/device/cuda.h"

// How kernels of our own are launched. From compute capability 9.0 on, the blocks of one may take their places while
// the last of the kernel before still run (programmatic dependent launch), so that no time passes between the two. Each
// waits in take_turn(), before it touches memory, for the whole end of the one before; that one has waited, too, so
// that all before it have ended. What is launched otherwise (libraries' kernels, copies, events, graphs) waits by
// itself.
namespace flame::cuda {

struct LaunchGrid {
  dim3 blocks, threads;
  size_t shared_bytes;
  cudaStream_t stream;
  std::source_location where;

  LaunchGrid(dim3 blocks, dim3 threads, size_t shared_bytes, cudaStream_t stream,
             std::source_location where = std::source_location::current())
      : blocks(blocks), threads(threads), shared_bytes(shared_bytes), stream(stream), where(where) {}
};

// What the launch is given; `early` is a place for it.
cudaLaunchConfig_t configuration(const LaunchGrid& grid, cudaLaunchAttribute& early);

// Runs the kernel with arguments that convert to its parameters; throws if it could not be launched.
template <class... Parameters>
void launch(void (*kernel)(Parameters...), const LaunchGrid& grid, std::type_identity_t<Parameters>... arguments) {
  cudaLaunchAttribute early;
  const cudaLaunchConfig_t config = configuration(grid, early);
  cudaLaunchKernelEx(&config, kernel, arguments...);
  check(cudaGetLastError(), grid.where);
}

// Whether kernels launched from now on may be placed early; they may unless told otherwise, here or by
// FLAME_EARLY_LAUNCHES=off in the environment. Without it, a profile shows only work, not waiting.
void set_early_launches(bool allowed);
// Whether the code for the current device waits: PTX for older cards, which the driver compiles for newer ones, does
// not.
bool kernels_wait();

#ifdef __CUDACC__
// The first statement of every kernel, for every thread.
__device__ inline void take_turn() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
  cudaGridDependencySynchronize();
#endif
}
#endif

}  // namespace flame::cuda
