#include <algorithm>

#include "flame/ops/apply_cuda.h"
#include "flame/ops/loss_kernels.h"
#include "flame/ops/reduce_cuda.h"

namespace flame::cuda {
namespace {

constexpr int block = 256;

// Samples in parts of `length` elements, one a block: its errors, times the sample's weight.
template <class Rule, class T>
__global__ void errors_kernel(const Rule rule, const T* prediction, const T* target, const float* weights,
                              int64_t width, int64_t parts, int64_t length, double* sums) {
  take_turn();
  const int64_t sample = blockIdx.x / parts, begin = (blockIdx.x - sample * parts) * length;
  const int64_t end = begin + length < width ? begin + length : width;
  const T *p = prediction + sample * width, *t = target + sample * width;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x; i < end; i += block) {
    sum += rule.cost(double{static_cast<float>(p[i])} - static_cast<float>(t[i]));
  }
  sum = sum_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = weights ? sum * weights[sample] : sum;
}

__global__ void total_kernel(const double* sums, int64_t count, double scale, float* loss) {
  take_turn();
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += block) total += sums[i];
  total = sum_block(total);
  if (threadIdx.x == 0) *loss = static_cast<float>(total * scale);
}

// dloss times the derivative by the minuend.
template <class Rule>
struct Slope {
  Rule rule;
  double scale;
  bool weighted;
  __device__ float operator()(float dloss, float weight, float minuend, float subtrahend) const {
    const double factor = scale * dloss * (weighted ? weight : 1.0f);
    return static_cast<float>(factor) * rule.slope(minuend - subtrahend);
  }
};

const float* data_of(const Tensor& weights) { return weights.defined() ? weights.data<float>() : nullptr; }

template <class Rule>
void mean_error_of(const Rule& rule, const Tensor& prediction, const Tensor& target, const Tensor& weights,
                   const Tensor& loss) {
  const Device device = prediction.device();
  const int64_t samples = weights.defined() ? weights.numel() : 1, width = prediction.numel() / samples;
  const int64_t parts = std::clamp<int64_t>(1024 / samples, 1, (width + 8 * block - 1) / (8 * block));
  const int64_t length = (width + parts - 1) / parts;
  const Tensor storage = Tensor::empty({samples * parts}, DType::i64, device);  // of the size of doubles
  auto* sums = reinterpret_cast<double*>(storage.raw());
  visit(prediction.dtype(), [&]<class T>() {
    launch(errors_kernel<Rule, T>, {static_cast<unsigned>(samples * parts), block, 0, stream(device)}, rule,
           prediction.data<T>(), target.data<T>(), data_of(weights), width, parts, length, sums);
  });
  launch(total_kernel, {1, block, 0, stream(device)}, sums, samples * parts,
         1.0 / static_cast<double>(prediction.numel()), loss.data<float>());
}

template <class Rule>
void gradients_of(const Rule& rule, const Tensor& dloss, const Tensor& prediction, const Tensor& target,
                  const Tensor& weights, const Tensor& dprediction, const Tensor& dtarget) {
  const Slope<Rule> slope = {rule, 1.0 / static_cast<double>(prediction.numel()), weights.defined()};
  const Tensor& weight = weights.defined() ? weights : dloss;  // not looked at
  const int64_t samples = weight.numel(), width = prediction.numel() / samples;
  const Shape whole = {samples, width};
  const auto walk = broadcast_walk(whole, Shape{}, Shape{samples, 1}, whole, whole);
  visit(prediction.dtype(), [&]<class T>() {
    const T *p = prediction.data<T>(), *t = target.data<T>();
    const float *dl = dloss.data<float>(), *w = weight.data<float>();
    if (dprediction.defined()) apply(prediction.device(), slope, walk, dprediction.data<T>(), dl, w, p, t);
    if (dtarget.defined()) apply(prediction.device(), slope, walk, dtarget.data<T>(), dl, w, t, p);
  });
}

}  // namespace

void mean_error(const ErrorRule& rule, const Tensor& prediction, const Tensor& target, const Tensor& weights,
                const Tensor& loss) {
  std::visit([&](const auto& known) { mean_error_of(known, prediction, target, weights, loss); }, rule);
}

void mean_error_gradients(const ErrorRule& rule, const Tensor& dloss, const Tensor& prediction, const Tensor& target,
                          const Tensor& weights, const Tensor& dprediction, const Tensor& dtarget) {
  std::visit([&](const auto& known) { gradients_of(known, dloss, prediction, target, weights, dprediction, dtarget); },
             rule);
}

}  // namespace flame::cuda
