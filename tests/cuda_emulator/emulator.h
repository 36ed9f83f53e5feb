#pragma once

#include <functional>

#include "cuda_runtime.h"

namespace cuda_emulator {

// Whether work is done as late as it may be, and backwards.
bool late();

// Runs the kernel's body for every thread of the grid, one block after the other, on the calling thread of the CPU.
// Ends the program where threads wait for others that will never come.
void run_grid(dim3 blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& body);

// Gives the stream work, or the graph that it is captured for.
cudaError_t give(Stream* stream, std::function<void()> work);

}  // namespace cuda_emulator
