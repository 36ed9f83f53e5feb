#include <algorithm>

#include "flame/device/launch_cuda.h"
#include "flame/ops/pointwise_kernels.h"
#include "flame/optim/adamw8bit_kernels.h"
#include "flame/optim/update_rules.h"

namespace flame::cuda {
namespace {

constexpr int threads = block_8bit, warps = threads / 32;

struct Pointers {
  const Block8Bit* blocks;
  const float *maps, *gradients;
  float* values;
  uint8_t *codes1, *codes2;
  float *largest1, *largest2, *wide1, *wide2;
};

// The largest of all threads' two values, for all of them.
__device__ float2 largest_pair(float a, float b, float2* of_warp) {
  for (int distance = 16; distance > 0; distance /= 2) {
    a = fmaxf(a, __shfl_xor_sync(~0u, a, distance));
    b = fmaxf(b, __shfl_xor_sync(~0u, b, distance));
  }
  __syncthreads();  // the last use of of_warp is over
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = {a, b};
  __syncthreads();
  float2 most = of_warp[0];
  for (int w = 1; w < warps; ++w) most = {fmaxf(most.x, of_warp[w].x), fmaxf(most.y, of_warp[w].y)};
  return most;
}

// A thread for each value of a block. `copy` may be null.
template <class T>
__global__ void __launch_bounds__(threads)
    adamw_8bit_kernel(const AdamWStep step, const StepState* state, int64_t blocks, const Pointers p, T* copy) {
  take_turn();
  if (state->skip) return;
  __shared__ AdamWRule shared;
  __shared__ float maps[2][256];
  __shared__ float2 of_warp[warps];
  if (threadIdx.x == 0) shared = step(*state);
  maps[0][threadIdx.x] = p.maps[threadIdx.x];
  maps[1][threadIdx.x] = p.maps[256 + threadIdx.x];
  __syncthreads();
  const AdamWRule rule = shared;
  for (int64_t k = blockIdx.x; k < blocks; k += gridDim.x) {
    const Block8Bit block = p.blocks[k];
    const bool here = threadIdx.x < block.count, narrow = block.wide < 0;
    const int64_t i = block.begin + threadIdx.x, wide = block.wide + threadIdx.x;
    std::array<float, 2> averages = {0, 0};
    if (here && narrow)
      averages = {maps[0][p.codes1[i]] * p.largest1[k], maps[1][p.codes2[i]] * p.largest2[k]};
    else if (here)
      averages = {p.wide1[wide], p.wide2[wide]};
    if (here) {
      const float value = rule(p.values[i], p.gradients[i], averages);
      p.values[i] = value;
      if (copy) copy[i] = T(value);
    }
    if (narrow) {
      const float2 most = largest_pair(fabsf(averages[0]), averages[1], of_warp);
      if (here) {
        p.codes1[i] = nearest_code(maps[0], most.x > 0 ? averages[0] / most.x : 0);
        p.codes2[i] = nearest_code(maps[1], most.y > 0 ? averages[1] / most.y : 0);
      }
      if (threadIdx.x == 0) {  // all threads have read theirs: largest_pair() waited
        p.largest1[k] = most.x;
        p.largest2[k] = most.y;
      }
    } else if (here) {
      p.wide1[wide] = averages[0];
      p.wide2[wide] = averages[1];
    }
  }
}

}  // namespace

void adamw_8bit(const AdamW8BitBuffers& b, const AdamWOptions& options, double lr, double decay, const Tensor& state) {
  const Device device = state.device();
  const int64_t blocks = b.blocks.dim(0);
  if (blocks == 0) return;
  const Pointers pointers = {reinterpret_cast<const Block8Bit*>(b.blocks.raw()),
                             b.maps.data<float>(),
                             b.gradients.data<float>(),
                             b.values.data<float>(),
                             b.codes1.data<uint8_t>(),
                             b.codes2.data<uint8_t>(),
                             b.largest1.data<float>(),
                             b.largest2.data<float>(),
                             b.wide1.data<float>(),
                             b.wide2.data<float>()};
  const auto most = int64_t{properties(device).multiProcessorCount} * 8;
  const auto grid = static_cast<unsigned>(std::min(blocks, most));
  const auto run = [&]<class T>(T* copy) {
    launch(adamw_8bit_kernel<T>, {grid, threads, 0, stream(device)}, AdamWStep{options, lr, decay},
           StepState::in(state), blocks, pointers, copy);
  };
  if (b.copy.defined())
    visit(b.copy.dtype(), [&]<class T>() { run(b.copy.data<T>()); });
  else
    run(static_cast<bf16*>(nullptr));
}

}  // namespace flame::cuda
