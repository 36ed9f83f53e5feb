#include <algorithm>
#include <cmath>
#include <vector>

#include "flame/core/scalar_math.h"
#include "flame/device/parallel.h"
#include "flame/ops/norm_kernels.h"

namespace flame::cpu {
namespace {

constexpr int64_t block_elements = 8192;  // summed in one go: fixed, so that the order never depends on the threads

// [N, ..., C] as samples of positions of channels, the positions in blocks.
struct Plan {
  int64_t samples, positions, channels, groups, rows, blocks;
  int64_t grain;  // blocks that are worth waking a thread for

  explicit Plan(const GroupNormTask& task)
      : samples(task.x.dim(0)), channels(task.x.dim(-1)), groups(task.groups), grain(task.silu ? 4 : 12) {
    positions = task.x.numel() / (samples * channels);
    rows = std::min(positions, std::max<int64_t>(4, block_elements / channels / 4 * 4));
    blocks = (positions + rows - 1) / rows;
  }
  int64_t first(int64_t sample, int64_t block) const { return (sample * positions + block * rows) * channels; }
  int64_t count(int64_t block) const { return std::min(rows, positions - block * rows); }
  int64_t size() const { return channels / groups; }                           // channels of a group
  int64_t begin(int64_t group) const { return group * size(); }                // its first channel
  double elements() const { return static_cast<double>(positions * size()); }  // of a group
};

// Two sums a channel, in double, for every block of every sample.
class ChannelSums {
 public:
  explicit ChannelSums(const Plan& p)
      : channels_(p.channels), blocks_(p.blocks), sums_(static_cast<size_t>(p.samples * p.blocks * 2 * p.channels)) {}
  double* of(int64_t sample, int64_t block) { return sums_.data() + (sample * blocks_ + block) * 2 * channels_; }

  // The blocks of a sample into its first.
  double* total(int64_t sample) {
    double* sums = of(sample, 0);
    for (int64_t b = 1; b < blocks_; ++b)
      for (int64_t c = 0; c < 2 * channels_; ++c) sums[c] += of(sample, b)[c];
    return sums;
  }

 private:
  int64_t channels_, blocks_;
  std::vector<double> sums_;
};

// Adds to each channel's sums[c] the g and to sums[channels + c] the g x of `rows` positions.
template <class G, class X>
void add_channel_sums(const G* g, const X* x, int64_t rows, int64_t channels, double* sums) {
  double* products = sums + channels;
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const G *g0 = g + r * channels, *g1 = g0 + channels, *g2 = g1 + channels, *g3 = g2 + channels;
    const X *x0 = x + r * channels, *x1 = x0 + channels, *x2 = x1 + channels, *x3 = x2 + channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const double a0 = float(g0[c]), a1 = float(g1[c]), a2 = float(g2[c]), a3 = float(g3[c]);
      sums[c] += (a0 + a1) + (a2 + a3);
      products[c] += (a0 * float(x0[c]) + a1 * float(x1[c])) + (a2 * float(x2[c]) + a3 * float(x3[c]));
    }
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < channels; ++c) {
      const double a = float(g[r * channels + c]);
      sums[c] += a;
      products[c] += a * float(x[r * channels + c]);
    }
  }
}

// gather on every block, then settle on every sample, then apply on every block. A sample needs only itself, so where
// there are enough of them a thread takes whole samples and is woken once.
template <class Gather, class Settle, class Apply>
void in_two_passes(const Plan& p, const Gather& gather, const Settle& settle, const Apply& apply) {
  if (p.samples % threads() == 0 || p.samples * p.blocks < 2 * p.grain) {
    parallel_for(p.samples, (p.grain + p.blocks - 1) / p.blocks, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        for (int64_t b = 0; b < p.blocks; ++b) gather(n, b);
        settle(n);
        for (int64_t b = 0; b < p.blocks; ++b) apply(n, b);
      }
    });
    return;
  }
  parallel_for(p.samples * p.blocks, p.grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) gather(i / p.blocks, i % p.blocks);
  });
  for (int64_t n = 0; n < p.samples; ++n) settle(n);
  parallel_for(p.samples * p.blocks, p.grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) apply(i / p.blocks, i % p.blocks);
  });
}

// What one position's channels are multiplied by and shifted by: one row a sample.
class Coefficients {
 public:
  Coefficients(const Plan& p, int64_t rows)
      : channels_(p.channels), rows_(rows), values_(static_cast<size_t>(p.samples * rows * p.channels)) {}
  float* row(int64_t sample, int64_t row) { return values_.data() + (sample * rows_ + row) * channels_; }

 private:
  int64_t channels_, rows_;
  std::vector<float> values_;
};

template <class T>
void forward(const GroupNormTask& task, float eps, T* y) {
  const Plan p(task);
  const int64_t channels = p.channels;
  const T *x = task.x.data<T>(), *weight = task.weight.data<T>(), *bias = task.bias.data<T>();
  float *means = task.mean.data<float>(), *rstds = task.rstd.data<float>();
  ChannelSums sums(p);
  Coefficients coefficients(p, 3);

  const auto gather = [&](int64_t n, int64_t b) {
    add_channel_sums(x + p.first(n, b), x + p.first(n, b), p.count(b), channels, sums.of(n, b));
  };
  const auto settle = [&](int64_t n) {  // y = (x - center) scale + shift
    const double* total = sums.total(n);
    float *center = coefficients.row(n, 0), *scale = coefficients.row(n, 1), *shift = coefficients.row(n, 2);
    for (int64_t g = 0; g < p.groups; ++g) {
      double sum = 0, squares = 0;
      for (int64_t c = p.begin(g); c < p.begin(g + 1); ++c) sum += total[c], squares += total[channels + c];
      const double mean = sum / p.elements(), variance = std::max(0.0, squares / p.elements() - mean * mean);
      const double rstd = 1 / std::sqrt(variance + eps);
      const float rounded = means[n * p.groups + g] = static_cast<float>(mean);
      rstds[n * p.groups + g] = static_cast<float>(rstd);
      for (int64_t c = p.begin(g); c < p.begin(g + 1); ++c) {
        center[c] = rounded;
        scale[c] = static_cast<float>(rstd * float(weight[c]));
        shift[c] = static_cast<float>(float(bias[c]) - (mean - rounded) * scale[c]);
      }
    }
  };
  const auto apply = [&](int64_t n, int64_t b) {
    const float *center = coefficients.row(n, 0), *scale = coefficients.row(n, 1), *shift = coefficients.row(n, 2);
    for (int64_t r = 0; r < p.count(b); ++r) {
      const T* from = x + p.first(n, b) + r * channels;
      T* to = y + p.first(n, b) + r * channels;
      if (task.silu) {
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) {
          const float z = std::fma(float(from[c]) - center[c], scale[c], shift[c]);
          to[c] = T(z * fast_sigmoid(z));
        }
      } else {
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) to[c] = T(std::fma(float(from[c]) - center[c], scale[c], shift[c]));
      }
    }
  };
  in_two_passes(p, gather, settle, apply);
}

template <class T>
void backward(const GroupNormTask& task, const Tensor& dy_tensor, const NormGradients& gradients) {
  const Plan p(task);
  const int64_t channels = p.channels;
  const T *x = task.x.data<T>(), *dy = dy_tensor.data<T>();
  const T* weight = task.weight.defined() ? task.weight.data<T>() : nullptr;
  const T* bias = task.bias.defined() ? task.bias.data<T>() : nullptr;
  const float *means = task.mean.data<float>(), *rstds = task.rstd.data<float>();
  T* dx = gradients.dx.defined() ? gradients.dx.data<T>() : nullptr;
  ChannelSums sums(p);
  Coefficients coefficients(p, 6);
  enum { center, scale, shift, of_dz, of_x, constant };  // the rows

  // With silu dz, the gradient before it, is needed twice: it waits in f32 where dx will be, if there is room.
  const bool in_place = dx && std::is_same_v<T, float>;
  const Tensor scratch = !task.silu ? Tensor() : in_place ? gradients.dx : Tensor::empty(task.x.shape());
  float* dz = task.silu ? scratch.data<float>() : nullptr;

  for (int64_t n = 0; n < p.samples; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t group = n * p.groups + c / p.size();
      coefficients.row(n, center)[c] = means[group];
      if (!task.silu) continue;
      coefficients.row(n, scale)[c] = rstds[group] * float(weight[c]);
      coefficients.row(n, shift)[c] = float(bias[c]);
    }
  }
  const auto gather = [&](int64_t n, int64_t b) {
    const int64_t first = p.first(n, b), rows = p.count(b);
    if (!task.silu) return add_channel_sums(dy + first, x + first, rows, channels, sums.of(n, b));
    const float *middle = coefficients.row(n, center), *gain = coefficients.row(n, scale);
    const float* offset = coefficients.row(n, shift);
    for (int64_t at = first; at < first + rows * channels; at += channels) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const float z = std::fma(float(x[at + c]) - middle[c], gain[c], offset[c]), s = fast_sigmoid(z);
        dz[at + c] = float(dy[at + c]) * s * (1 + z * (1 - s));
      }
    }
    add_channel_sums(dz + first, x + first, rows, channels, sums.of(n, b));
  };
  const auto settle = [&](int64_t n) {  // dx = rstd (weight dz - mean(weight dz) - x^ mean(weight dz x^))
    double *total = sums.total(n), *products = total + channels;
    for (int64_t g = 0; g < p.groups; ++g) {
      const double mean = means[n * p.groups + g], rstd = rstds[n * p.groups + g];
      double sum = 0, product = 0;
      for (int64_t c = p.begin(g); c < p.begin(g + 1); ++c) {
        products[c] = (products[c] - mean * total[c]) * rstd;  // now with the normalised x
        if (!dx) continue;
        sum += float(weight[c]) * total[c];
        product += float(weight[c]) * products[c];
      }
      if (!dx) continue;
      for (int64_t c = p.begin(g); c < p.begin(g + 1); ++c) {
        coefficients.row(n, of_dz)[c] = static_cast<float>(rstd * float(weight[c]));
        coefficients.row(n, of_x)[c] = static_cast<float>(-rstd * rstd * product / p.elements());
        coefficients.row(n, constant)[c] = static_cast<float>(-rstd * sum / p.elements());
      }
    }
  };
  const auto spread = [&](int64_t n, int64_t b, const auto* g) {
    const float *middle = coefficients.row(n, center), *u = coefficients.row(n, of_dz);
    const float *v = coefficients.row(n, of_x), *w = coefficients.row(n, constant);
    const int64_t first = p.first(n, b);
    for (int64_t at = first; at < first + p.count(b) * channels; at += channels) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const float rest = std::fma(float(x[at + c]) - middle[c], v[c], w[c]);
        dx[at + c] = T(std::fma(float(g[at + c]), u[c], rest));
      }
    }
  };
  const auto apply = [&](int64_t n, int64_t b) {
    if (!dx) return;
    if (task.silu)
      spread(n, b, dz);
    else
      spread(n, b, dy);
  };
  in_two_passes(p, gather, settle, apply);

  const auto over_samples = [&](const Tensor& out, int64_t row) {
    if (!out.defined()) return;
    T* to = out.data<T>();
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t n = 0; n < p.samples; ++n) sum += sums.of(n, 0)[row * channels + c];
      to[c] = T(static_cast<float>(sum));
    }
  };
  over_samples(gradients.dbias, 0);
  over_samples(gradients.dweight, 1);
}

}  // namespace

void group_norm(const GroupNormTask& task, float eps, const Tensor& y) {
  visit(y.dtype(), [&]<class T>() { forward(task, eps, y.data<T>()); });
}

void group_norm_backward(const GroupNormTask& task, const Tensor& dy, const NormGradients& gradients) {
  visit(dy.dtype(), [&]<class T>() { backward<T>(task, dy, gradients); });
}

}  // namespace flame::cpu
