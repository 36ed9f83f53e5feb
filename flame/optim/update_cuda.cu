#include <algorithm>

#include "flame/ops/apply_cuda.h"
#include "flame/optim/update_kernels.h"
#include "flame/optim/update_rules.h"

namespace flame::cuda {
namespace {

constexpr int block = 256, blocks_a_multiprocessor = 5;

template <int N>
struct Pointers {
  float* at[N];
};

// The first `chunks` times 4 elements 4 at a time, the others one at a time. `copy` may be null.
template <class Step, class T>
__global__ void __launch_bounds__(block, blocks_a_multiprocessor)
    update_kernel(const Step step, const StepState* state, int64_t count, int64_t chunks, float* values,
                  const float* gradients, const Pointers<Step::states> states, T* copy) {
  take_turn();
  if (state->skip) return;
  constexpr int N = Step::states;
  using Rule = decltype(step(*state));
  __shared__ Rule shared;
  if (threadIdx.x == 0) shared = step(*state);
  __syncthreads();
  const Rule rule = shared;
  const int64_t thread = blockIdx.x * int64_t{block} + threadIdx.x, threads = int64_t{gridDim.x} * block;
  for (int64_t i = thread; i < chunks; i += threads) {
    Chunk<float, 4> value = load_chunk<4>(values + 4 * i), own[N];
    const Chunk<float, 4> gradient = load_chunk<4>(gradients + 4 * i);
    Chunk<T, 4> rounded;
#pragma unroll
    for (int s = 0; s < N; ++s) own[s] = load_chunk<4>(static_cast<const float*>(states.at[s]) + 4 * i);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      std::array<float, N> numbers;
#pragma unroll
      for (int s = 0; s < N; ++s) numbers[s] = own[s].values[k];
      value.values[k] = rule(value.values[k], gradient.values[k], numbers);
#pragma unroll
      for (int s = 0; s < N; ++s) own[s].values[k] = numbers[s];
      rounded.values[k] = T(value.values[k]);
    }
    store_chunk(values + 4 * i, value);
#pragma unroll
    for (int s = 0; s < N; ++s) store_chunk(states.at[s] + 4 * i, own[s]);
    if (copy) store_chunk(copy + 4 * i, rounded);
  }
  for (int64_t i = 4 * chunks + thread; i < count; i += threads) {
    std::array<float, N> numbers;
    for (int s = 0; s < N; ++s) numbers[s] = states.at[s][i];
    values[i] = rule(values[i], gradients[i], numbers);
    for (int s = 0; s < N; ++s) states.at[s][i] = numbers[s];
    if (copy) copy[i] = T(values[i]);
  }
}

template <class Step, class T>
void update_with_copy(const UpdateBuffers& b, const Step& step, const StepState* state, T* copy) {
  const Device device = b.values.device();
  const int64_t count = b.values.numel();
  bool aligned = reinterpret_cast<uintptr_t>(copy) % (4 * sizeof(T)) == 0;
  const auto check_alignment = [&](const Tensor& x) { aligned &= reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0; };
  check_alignment(b.values);
  check_alignment(b.gradients);
  Pointers<Step::states> states;
  for (int k = 0; k < Step::states; ++k) {
    check_alignment(b.states[k]);
    states.at[k] = b.states[k].data<float>();
  }
  const int64_t chunks = aligned ? count / 4 : 0;
  // As many blocks as the card holds at once: each begins with powers in double, which take their time.
  const auto resident = static_cast<unsigned>(properties(device).multiProcessorCount * blocks_a_multiprocessor);
  const unsigned blocks = std::min(blocks_for(device, aligned ? chunks + 3 : count, block), resident);
  launch(update_kernel<Step, T>, {blocks, block, 0, stream(device)}, step, state, count, chunks, b.values.data<float>(),
         b.gradients.data<float>(), states, copy);
}

}  // namespace

template <class Step>
void update(const UpdateBuffers& buffers, const Step& step, const Tensor& state) {
  if (buffers.values.numel() == 0) return;
  const StepState* scalars = StepState::in(state);
  if (!buffers.copy.defined()) return update_with_copy<Step, bf16>(buffers, step, scalars, nullptr);
  visit(buffers.copy.dtype(), [&]<class T>() { update_with_copy(buffers, step, scalars, buffers.copy.data<T>()); });
}

template void update(const UpdateBuffers& buffers, const AdamWStep& step, const Tensor& state);
template void update(const UpdateBuffers& buffers, const LionStep& step, const Tensor& state);
template void update(const UpdateBuffers& buffers, const ScheduleFreeStep& step, const Tensor& state);
template void update(const UpdateBuffers& buffers, const ProdigyStep& step, const Tensor& state);

namespace {

__global__ void begin_schedule_free_kernel(const ScheduleFreeOptions options, const StepState* state, double lr,
                                           ScheduleFreeNumbers* numbers) {
  take_turn();
  numbers->begin(options, *state, lr);
}

}  // namespace

void begin_schedule_free(const ScheduleFreeOptions& options, const Tensor& state, double lr,
                         ScheduleFreeNumbers* numbers) {
  launch(begin_schedule_free_kernel, {1, 1, 0, stream(state.device())}, options, StepState::in(state), lr, numbers);
}

}  // namespace flame::cuda
