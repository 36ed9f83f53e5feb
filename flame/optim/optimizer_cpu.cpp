#include <algorithm>
#include <array>
#include <numeric>

#include "flame/device/parallel.h"
#include "flame/optim/optimizer_kernels.h"

namespace flame::cpu {
namespace {

double sum_of_squares(const float* x, int64_t count) {
  constexpr int64_t lanes = 8;  // independent sums, so that the loop uses the vector unit
  std::array<double, lanes> sums = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const double value = x[i + lane];
      sums[lane] += value * value;
    }
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) sums[lane] += static_cast<double>(x[i]) * x[i];
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// In blocks of fixed size: the same bits for any number of threads.
double sum_of_squares(const Tensor& gradients) {
  constexpr int64_t block = 1 << 14;
  const int64_t count = gradients.numel();
  const float* x = gradients.data<float>();
  std::vector<double> partial(static_cast<size_t>((count + block - 1) / block));
  parallel_for(static_cast<int64_t>(partial.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      partial[static_cast<size_t>(i)] = sum_of_squares(x + i * block, std::min(block, count - i * block));
  });
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

}  // namespace

void begin_step(const Tensor& gradients, const LearningRate& rate, double max_norm, const LossScaling& scaling,
                const Tensor& state) {
  const double value = rate.scalar.defined() ? *rate.scalar.data<float>() : rate.value;
  StepState::in(state)->begin(sum_of_squares(gradients), value, max_norm, scaling);
}

}  // namespace flame::cpu
