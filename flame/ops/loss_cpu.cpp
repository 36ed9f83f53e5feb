#include <variant>
#include <vector>

#include "flame/device/parallel.h"
#include "flame/ops/loss_kernels.h"

namespace flame::cpu {
namespace {

constexpr int64_t block = 1 << 13;  // summed in one go: fixed, so that the order never depends on the threads
constexpr int64_t grain_blocks = 8;

// The elements in blocks, none of which spans two samples.
struct Blocks {
  int64_t samples, width, per_sample;

  Blocks(const Tensor& x, const Tensor& weights)
      : samples(weights.defined() ? weights.numel() : 1),
        width(x.numel() / samples),
        per_sample((width + block - 1) / block) {}
  int64_t count() const { return samples * per_sample; }
  int64_t begin(int64_t i) const { return i / per_sample * width + i % per_sample * block; }
  int64_t end(int64_t i) const { return std::min(begin(i) + block, (i / per_sample + 1) * width); }
};

// What a sample's errors are multiplied by: the mean over its elements and over the samples, weighted.
double factor(const Tensor& x, const Tensor& weights, int64_t sample) {
  return (weights.defined() ? weights.data<float>()[sample] : 1.0) / static_cast<double>(x.numel());
}

template <class Rule>
void mean_error_of(const Rule& rule, const Tensor& prediction, const Tensor& target, const Tensor& weights,
                   const Tensor& loss) {
  const Blocks blocks(prediction, weights);
  std::vector<double> sums(static_cast<size_t>(blocks.count()));
  visit(prediction.dtype(), [&]<class T>() {
    const T *p = prediction.data<T>(), *t = target.data<T>();
    parallel_for(blocks.count(), grain_blocks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = blocks.begin(i); k < blocks.end(i); ++k) sum += rule.cost(double{float(p[k])} - float(t[k]));
        sums[i] = sum;
      }
    });
  });
  double total = 0;
  for (int64_t i = 0; i < blocks.count(); ++i) total += sums[i] * factor(prediction, weights, i / blocks.per_sample);
  *loss.data<float>() = static_cast<float>(total);
}

template <class Rule>
void gradients_of(const Rule& rule, const Tensor& dloss, const Tensor& prediction, const Tensor& target,
                  const Tensor& weights, const Tensor& dprediction, const Tensor& dtarget) {
  const Blocks blocks(prediction, weights);
  const double scale = *dloss.data<float>();
  visit(prediction.dtype(), [&]<class T>() {
    const T *p = prediction.data<T>(), *t = target.data<T>();
    T* dp = dprediction.defined() ? dprediction.data<T>() : nullptr;
    T* dt = dtarget.defined() ? dtarget.data<T>() : nullptr;
    parallel_for(blocks.count(), grain_blocks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float s = static_cast<float>(scale * factor(prediction, weights, i / blocks.per_sample));
        const int64_t first = blocks.begin(i), last = blocks.end(i);
        if (dp) {
#pragma omp simd
          for (int64_t k = first; k < last; ++k) dp[k] = T(s * rule.slope(float(p[k]) - float(t[k])));
        }
        if (dt) {
#pragma omp simd
          for (int64_t k = first; k < last; ++k) dt[k] = T(s * rule.slope(float(t[k]) - float(p[k])));
        }
      }
    });
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

}  // namespace flame::cpu
