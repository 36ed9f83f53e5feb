#include <algorithm>

#include "flame/ops/apply_cuda.h"
#include "flame/ops/reduce_cuda.h"
#include "flame/optim/optimizer_kernels.h"

namespace flame::cuda {
namespace {

constexpr int block = 256, last_block = 1024;

// The first `chunks` times 4 elements 4 at a time, the others one at a time; a sum for each block.
__global__ void sum_of_squares_kernel(const float* x, int64_t count, int64_t chunks, double* sums) {
  take_turn();
  const int64_t thread = blockIdx.x * int64_t{block} + threadIdx.x, threads = int64_t{gridDim.x} * block;
  double sum = 0;
  const auto add = [&](double value) { sum += value * value; };
#pragma unroll 4
  for (int64_t i = thread; i < chunks; i += threads) {
    const Chunk<float, 4> chunk = load_chunk<4>(x + 4 * i);
    for (const float value : chunk.values) add(value);
  }
  for (int64_t i = 4 * chunks + thread; i < count; i += threads) add(x[i]);
  sum = sum_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void begin_step_kernel(const double* sums, int count, const float* rate, double rate_value, double max_norm,
                                  const LossScaling scaling, StepState* state) {
  take_turn();
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += last_block) sum += sums[i];
  sum = sum_block(sum);
  if (threadIdx.x == 0) state->begin(sum, rate ? *rate : rate_value, max_norm, scaling);
}

}  // namespace

void begin_step(const Tensor& gradients, const LearningRate& rate, double max_norm, const LossScaling& scaling,
                const Tensor& state) {
  const Device device = gradients.device();
  const float* x = gradients.data<float>();
  const int64_t count = gradients.numel();
  const int64_t chunks = reinterpret_cast<uintptr_t>(x) % 16 == 0 ? count / 4 : 0;
  // As many blocks for every card, so that the sum has the same order.
  const auto blocks = static_cast<int>(std::clamp<int64_t>(count / (16 * block), 1, 1024));
  const Tensor storage = Tensor::empty({blocks}, DType::i64, device);  // of the size of doubles
  auto* sums = reinterpret_cast<double*>(storage.raw());
  launch(sum_of_squares_kernel, {static_cast<unsigned>(blocks), block, 0, stream(device)}, x, count, chunks, sums);
  launch(begin_step_kernel, {1, last_block, 0, stream(device)}, sums, blocks,
         rate.scalar.defined() ? rate.scalar.data<float>() : nullptr, rate.value, max_norm, scaling,
         StepState::in(state));
}

}  // namespace flame::cuda
