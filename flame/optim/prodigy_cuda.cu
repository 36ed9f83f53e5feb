#include "flame/device/launch_cuda.h"
#include "flame/ops/reduce_cuda.h"
#include "flame/optim/prodigy_kernels.h"

namespace flame::cuda {
namespace {

constexpr int block = 256;

// As many blocks for every card, so that the sums have the same order.
__global__ void __launch_bounds__(block)
    take_in_kernel(const ProdigyOptions options, double lr, double decay, const StepState* state,
                   const ProdigyNumbers* numbers, int64_t count, const float* values, const float* gradients,
                   const float* start, float* exp_avg, float* exp_avg_sq, float* s, double* sums) {
  take_turn();
  if (state->skip) return;
  __shared__ ProdigyTakeIn shared;
  if (threadIdx.x == 0)
    shared = ProdigyTakeIn::of(options, decay, options.beta3, state->learning_rate * lr, *numbers, state->scale);
  __syncthreads();
  const ProdigyTakeIn rule = shared;
  double carried = 0, size = 0;
  for (int64_t i = blockIdx.x * int64_t{block} + threadIdx.x; i < count; i += int64_t{gridDim.x} * block)
    rule(values[i], gradients[i], start[i], exp_avg[i], exp_avg_sq[i], s[i], carried, size);
  sum_block_pair(carried, size);
  if (threadIdx.x == 0) {
    sums[2 * blockIdx.x] = carried;
    sums[2 * blockIdx.x + 1] = size;
  }
}

__global__ void __launch_bounds__(block)
    estimate_kernel(const ProdigyOptions options, double lr, const StepState* state, const double* sums, int64_t pairs,
                    ProdigyNumbers* numbers) {
  take_turn();
  if (state->skip) return;
  double carried = 0, size = 0;
  for (int64_t i = threadIdx.x; i < pairs; i += block) {
    carried += sums[2 * i];
    size += sums[2 * i + 1];
  }
  sum_block_pair(carried, size);
  if (threadIdx.x == 0) numbers->estimate(options, state->learning_rate * lr, options.beta3, carried, size);
}

}  // namespace

void prodigy_take_in(const ProdigyBuffers& b, const ProdigyOptions& options, double lr, double decay,
                     const Tensor& state, const Tensor& numbers, const Tensor& sums) {
  launch(take_in_kernel, {static_cast<unsigned>(prodigy_sums), block, 0, stream(state.device())}, options, lr, decay,
         StepState::in(state), ProdigyNumbers::in(numbers), b.values.numel(), b.values.data<float>(),
         b.gradients.data<float>(), b.start.data<float>(), b.exp_avg.data<float>(), b.exp_avg_sq.data<float>(),
         b.s.data<float>(), reinterpret_cast<double*>(sums.raw()));
}

void prodigy_estimate(const ProdigyOptions& options, double lr, const Tensor& state, const Tensor& sums,
                      const Tensor& numbers) {
  launch(estimate_kernel, {1, block, 0, stream(state.device())}, options, lr, StepState::in(state),
         reinterpret_cast<const double*>(sums.raw()), sums.numel() / 2, ProdigyNumbers::in(numbers));
}

}  // namespace flame::cuda
