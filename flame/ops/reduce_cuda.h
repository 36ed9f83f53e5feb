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

// The sums of two values over a one-dimensional block of whole warps, for all of its threads. Once a kernel.
__device__ inline void sum_block_pair(double& a, double& b) {
  __shared__ double of_warp[2][32];
  a = sum_lanes(a);
  b = sum_lanes(b);
  if (threadIdx.x % 32 == 0) {
    of_warp[0][threadIdx.x / 32] = a;
    of_warp[1][threadIdx.x / 32] = b;
  }
  __syncthreads();
  a = b = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) {
    a += of_warp[0][warp];
    b += of_warp[1][warp];
  }
}

}  // namespace flame::cuda
