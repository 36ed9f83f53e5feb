#include <algorithm>

#include "flame/ops/apply_cuda.h"
#include "flame/optim/adamw_kernels.h"

namespace flame::cuda {
namespace {

constexpr int block = 256, blocks_a_multiprocessor = 5;

// The first `chunks` times 4 elements 4 at a time, the others one at a time. `copy` may be null.
template <class T>
__global__ void __launch_bounds__(block, blocks_a_multiprocessor)
    adamw_kernel(const AdamWOptions options, const StepState* state, int64_t count, int64_t chunks, float* values,
                 const float* gradients, float* exp_avg, float* exp_avg_sq, T* copy) {
  take_turn();
  if (state->skip) return;
  __shared__ AdamWRule shared;
  if (threadIdx.x == 0) shared = AdamWRule::of(options, *state);
  __syncthreads();
  const AdamWRule rule = shared;
  const int64_t thread = blockIdx.x * int64_t{block} + threadIdx.x, threads = int64_t{gridDim.x} * block;
  for (int64_t i = thread; i < chunks; i += threads) {
    Chunk<float, 4> value = load_chunk<4>(values + 4 * i), m = load_chunk<4>(exp_avg + 4 * i);
    Chunk<float, 4> v = load_chunk<4>(exp_avg_sq + 4 * i);
    const Chunk<float, 4> gradient = load_chunk<4>(gradients + 4 * i);
    Chunk<T, 4> rounded;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      value.values[k] = rule(value.values[k], gradient.values[k], m.values[k], v.values[k]);
      rounded.values[k] = T(value.values[k]);
    }
    store_chunk(values + 4 * i, value);
    store_chunk(exp_avg + 4 * i, m);
    store_chunk(exp_avg_sq + 4 * i, v);
    if (copy) store_chunk(copy + 4 * i, rounded);
  }
  for (int64_t i = 4 * chunks + thread; i < count; i += threads) {
    values[i] = rule(values[i], gradients[i], exp_avg[i], exp_avg_sq[i]);
    if (copy) copy[i] = T(values[i]);
  }
}

template <class T>
void adamw(const AdamWBuffers& b, const AdamWOptions& options, const StepState* state, T* copy) {
  const Device device = b.values.device();
  const int64_t count = b.values.numel();
  bool aligned = reinterpret_cast<uintptr_t>(copy) % (4 * sizeof(T)) == 0;
  for (const Tensor& x : {b.values, b.gradients, b.exp_avg, b.exp_avg_sq})
    aligned &= reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0;
  const int64_t chunks = aligned ? count / 4 : 0;
  // As many blocks as the card holds at once: each begins with two powers in double, which take their time.
  const auto resident = static_cast<unsigned>(properties(device).multiProcessorCount * blocks_a_multiprocessor);
  const unsigned blocks = std::min(blocks_for(device, aligned ? chunks + 3 : count, block), resident);
  launch(adamw_kernel<T>, {blocks, block, 0, stream(device)}, options, state, count, chunks, b.values.data<float>(),
         b.gradients.data<float>(), b.exp_avg.data<float>(), b.exp_avg_sq.data<float>(), copy);
}

}  // namespace

void adamw(const AdamWBuffers& buffers, const AdamWOptions& options, const Tensor& state) {
  const StepState* scalars = StepState::in(state);
  if (!buffers.copy.defined()) return adamw<bf16>(buffers, options, scalars, nullptr);
  visit(buffers.copy.dtype(), [&]<class T>() { adamw(buffers, options, scalars, buffers.copy.data<T>()); });
}

}  // namespace flame::cuda
