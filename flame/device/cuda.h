#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <source_location>

#include "flame/device/device.h"

// What kernels and library wrappers for GPUs share. Only files of the CUDA build include it.
namespace flame::cuda {

// Throws "CUDA: what the runtime says (file:line)" for a call that failed.
void check(cudaError_t status, std::source_location where = std::source_location::current());

// The device's one compute stream, on which everything runs in order; makes the device current on this thread.
cudaStream_t stream(Device device);
// A second stream for work that the first does not wait for at once: fork() makes it wait for what the first has so
// far. mark() names what it has been given, wait_for() makes the first wait for that. What it uses must live until
// then.
cudaStream_t fork(Device device);
cudaEvent_t mark(Device device);
void wait_for(Device device, cudaEvent_t mark);

const cudaDeviceProp& properties(Device device);

// Blocks of a grid-stride loop over n items: enough for the whole card, no more.
unsigned blocks_for(Device device, int64_t n, int threads_per_block);

// Whether matrix products and convolutions of f32 may round their factors to TF32 (10 bits of mantissa). Off by
// default.
bool tf32();
// Whether kernels that give other last bits in each run are avoided, at a price.
bool deterministic();

}  // namespace flame::cuda
