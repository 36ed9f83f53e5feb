#pragma once

#include "flame/device/cuda.h"

// Sums of doubles within a block, always in the same order.
namespace flame::cuda {

// The sum over groups of `lanes` neighbouring threads of a warp, a power of two; all 32 must call it.
__device__ inline double sum_lanes(double value, int lanes = 32) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
  return value;
}

// The sum over a one-dimensional block of whole warps, for its first warp. Once a kernel.
__device__ inline double sum_block(double value) {
  __shared__ double of_warp[32];
  value = sum_lanes(value);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  return sum_lanes(threadIdx.x < blockDim.x / 32 ? of_warp[threadIdx.x] : 0);
}

}  // namespace flame::cuda
