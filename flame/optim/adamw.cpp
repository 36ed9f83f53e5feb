#include "flame/optim/adamw.h"

#include <algorithm>

#include "flame/device/parallel.h"
#include "flame/ops/layout_kernels.h"
#include "flame/ops/on.h"

namespace flame {

void cpu::adamw(const AdamWBuffers& buffers, const AdamWOptions& options, const Tensor& state) {
  if (StepState::in(state)->skip) return;
  const AdamWRule rule = AdamWRule::of(options, *StepState::in(state));
  float* const values = buffers.values.data<float>();
  const float* const gradients = buffers.gradients.data<float>();
  float* const exp_avg = buffers.exp_avg.data<float>();
  float* const exp_avg_sq = buffers.exp_avg_sq.data<float>();
  // Blocks of fixed size: where the vector loop ends, and with it rounding, must not depend on the number of threads.
  constexpr int64_t block = 1 << 14;
  const int64_t count = buffers.values.numel();
  parallel_for((count + block - 1) / block, 1, [=](int64_t first, int64_t last) {
#pragma omp simd
    for (int64_t i = first * block; i < std::min(last * block, count); ++i)
      values[i] = rule(values[i], gradients[i], exp_avg[i], exp_avg_sq[i]);
  });
  if (buffers.copy.defined()) cpu::cast(buffers.values, buffers.copy);
}

AdamW::AdamW(ParameterPack pack, const Options& options) : Optimizer(std::move(pack)), options_(options) {
  PurposeScope purpose(Purpose::optimizer);
  const Tensor& values = this->pack().values();
  exp_avg_ = Tensor::zeros(values.shape(), DType::f32, values.device());
  exp_avg_sq_ = Tensor::zeros(values.shape(), DType::f32, values.device());
}

NamedTensors AdamW::state() const { return {{"exp_avg", exp_avg_}, {"exp_avg_sq", exp_avg_sq_}}; }

void AdamW::update(const Tensor& state) {
  const AdamWBuffers buffers = {pack().values(), pack().gradients(), exp_avg_, exp_avg_sq_, pack().compute_copy()};
  on<cpu::adamw, cuda::adamw>(buffers.values.device(), buffers, options_, state);
}

}  // namespace flame
