#include <algorithm>

#include "flame/device/parallel.h"
#include "flame/ops/layout_kernels.h"
#include "flame/optim/update_kernels.h"
#include "flame/optim/update_rules.h"

namespace flame::cpu {

template <class Step>
void update(const UpdateBuffers& buffers, const Step& step, const Tensor& state) {
  if (StepState::in(state)->skip) return;
  const auto rule = step(*StepState::in(state));
  float* const values = buffers.values.data<float>();
  const float* const gradients = buffers.gradients.data<float>();
  std::array<float*, Step::states> states;
  for (size_t k = 0; k < states.size(); ++k) states[k] = buffers.states[k].data<float>();
  // Blocks of fixed size: where the vector loop ends, and with it rounding, must not depend on the number of threads.
  constexpr int64_t block = 1 << 14;
  const int64_t count = buffers.values.numel();
  parallel_for((count + block - 1) / block, 1, [=](int64_t first, int64_t last) {
#pragma omp simd
    for (int64_t i = first * block; i < std::min(last * block, count); ++i) {
      std::array<float, Step::states> own;
      for (size_t k = 0; k < own.size(); ++k) own[k] = states[k][i];
      values[i] = rule(values[i], gradients[i], own);
      for (size_t k = 0; k < own.size(); ++k) states[k][i] = own[k];
    }
  });
  if (buffers.copy.defined()) cpu::cast(buffers.values, buffers.copy);
}

template void update(const UpdateBuffers& buffers, const AdamWStep& step, const Tensor& state);
template void update(const UpdateBuffers& buffers, const LionStep& step, const Tensor& state);
template void update(const UpdateBuffers& buffers, const ScheduleFreeStep& step, const Tensor& state);
template void update(const UpdateBuffers& buffers, const ProdigyStep& step, const Tensor& state);

}  // namespace flame::cpu
