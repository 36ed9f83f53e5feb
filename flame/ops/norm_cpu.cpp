#include <cmath>

#include "flame/core/scalar_math.h"
#include "flame/device/parallel.h"
#include "flame/ops/norm_kernels.h"

namespace flame::cpu {
namespace {

constexpr int64_t norm_grain = 1 << 16, geglu_grain = 1 << 14;  // elements worth a thread

int64_t rows_worth(int64_t grain, int64_t width) { return std::max<int64_t>(1, grain / std::max<int64_t>(width, 1)); }

template <class T>
void layer_norm_row(const T* x, const T* weight, const T* bias, int64_t width, float eps, T* y, float& row_mean,
                    float& row_rstd) {
  double sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum, squares)
  for (int64_t c = 0; c < width; ++c) {
    const double value = float(x[c]);
    sum += value;
    squares += value * value;
  }
  const double mean = sum / static_cast<double>(width);
  const double variance = std::max(0.0, squares / static_cast<double>(width) - mean * mean);
  row_mean = static_cast<float>(mean);
  row_rstd = static_cast<float>(1 / std::sqrt(variance + eps));
  const float center = row_mean, scale = row_rstd;
  const float rest = static_cast<float>((center - mean) * scale);  // what rounding the mean took
#pragma omp simd
  for (int64_t c = 0; c < width; ++c)
    y[c] = T(std::fma(std::fma(float(x[c]) - center, scale, rest), float(weight[c]), float(bias[c])));
}

template <class T>
void layer_norm_dx_row(const T* dy, const T* x, const T* weight, int64_t width, float mean, float rstd, T* dx) {
  double sum = 0, products = 0;
#pragma omp simd reduction(+ : sum, products)
  for (int64_t c = 0; c < width; ++c) {
    const float g = float(dy[c]) * float(weight[c]);
    sum += g;
    products += double{g} * (float(x[c]) - mean);
  }
  const float a = static_cast<float>(-sum / static_cast<double>(width) * rstd);
  const float b = static_cast<float>(-products / static_cast<double>(width) * rstd * rstd * rstd);
#pragma omp simd
  for (int64_t c = 0; c < width; ++c)
    dx[c] = T(std::fma(float(dy[c]) * float(weight[c]), rstd, std::fma(float(x[c]) - mean, b, a)));
}

template <class T>
void rms_norm_row(const T* x, const T* weight, int64_t width, float eps, T* y, float& row_rrms) {
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t c = 0; c < width; ++c) squares += double{float(x[c])} * float(x[c]);
  const float rrms = row_rrms = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(width) + eps));
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) y[c] = T(float(x[c]) * rrms * float(weight[c]));
}

template <class T>
void rms_norm_dx_row(const T* dy, const T* x, const T* weight, int64_t width, float rrms, T* dx) {
  double products = 0;
#pragma omp simd reduction(+ : products)
  for (int64_t c = 0; c < width; ++c) products += double{float(dy[c]) * float(weight[c])} * float(x[c]);
  const float b = static_cast<float>(-products / static_cast<double>(width) * rrms * rrms * rrms);
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) dx[c] = T(std::fma(float(dy[c]) * float(weight[c]), rrms, float(x[c]) * b));
}

// The normal distribution: gelu(x) = x cdf(x).
float normal_cdf(float x) { return 0.5f * (1 + fast_erf(x * 0.70710678f)); }
float normal_density(float x) { return 0.39894228f * fast_exp(-0.5f * x * x); }

}  // namespace

void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, const Tensor& y,
                const Tensor& mean, const Tensor& rstd) {
  const int64_t width = x.dim(-1);
  float *means = mean.data<float>(), *rstds = rstd.data<float>();
  visit(x.dtype(), [&]<class T>() {
    const T *from = x.data<T>(), *w = weight.data<T>(), *b = bias.data<T>();
    T* to = y.data<T>();
    parallel_for(x.numel() / width, rows_worth(norm_grain, width), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        layer_norm_row(from + r * width, w, b, width, eps, to + r * width, means[r], rstds[r]);
    });
  });
}

void layer_norm_dx(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                   const Tensor& dx) {
  const int64_t width = x.dim(-1);
  const float *means = mean.data<float>(), *rstds = rstd.data<float>();
  visit(x.dtype(), [&]<class T>() {
    const T *g = dy.data<T>(), *from = x.data<T>(), *w = weight.data<T>();
    T* to = dx.data<T>();
    parallel_for(x.numel() / width, rows_worth(norm_grain, width), [=](int64_t begin, int64_t end) {
      for (int64_t at = begin * width, r = begin; r < end; ++r, at += width)
        layer_norm_dx_row(g + at, from + at, w, width, means[r], rstds[r], to + at);
    });
  });
}

void layer_norm_products(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& out) {
  const int64_t width = x.dim(-1);
  const float *means = mean.data<float>(), *rstds = rstd.data<float>();
  float* to = out.data<float>();
  visit(x.dtype(), [&]<class T>() {
    const T *g = dy.data<T>(), *from = x.data<T>();
    parallel_for(x.numel() / width, rows_worth(norm_grain, width), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t i = r * width; i < (r + 1) * width; ++i)
          to[i] = float(g[i]) * ((float(from[i]) - means[r]) * rstds[r]);
      }
    });
  });
}

void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y, const Tensor& rrms) {
  const int64_t width = x.dim(-1);
  float* reciprocals = rrms.data<float>();
  visit(x.dtype(), [&]<class T>() {
    const T *from = x.data<T>(), *w = weight.data<T>();
    T* to = y.data<T>();
    parallel_for(x.numel() / width, rows_worth(norm_grain, width), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        rms_norm_row(from + r * width, w, width, eps, to + r * width, reciprocals[r]);
    });
  });
}

void rms_norm_dx(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rrms, const Tensor& dx) {
  const int64_t width = x.dim(-1);
  const float* reciprocals = rrms.data<float>();
  visit(x.dtype(), [&]<class T>() {
    const T *g = dy.data<T>(), *from = x.data<T>(), *w = weight.data<T>();
    T* to = dx.data<T>();
    parallel_for(x.numel() / width, rows_worth(norm_grain, width), [=](int64_t begin, int64_t end) {
      for (int64_t at = begin * width, r = begin; r < end; ++r, at += width)
        rms_norm_dx_row(g + at, from + at, w, width, reciprocals[r], to + at);
    });
  });
}

void rms_norm_products(const Tensor& dy, const Tensor& x, const Tensor& rrms, const Tensor& out) {
  const int64_t width = x.dim(-1);
  const float* reciprocals = rrms.data<float>();
  float* to = out.data<float>();
  visit(x.dtype(), [&]<class T>() {
    const T *g = dy.data<T>(), *from = x.data<T>();
    parallel_for(x.numel() / width, rows_worth(norm_grain, width), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t i = r * width; i < (r + 1) * width; ++i) to[i] = float(g[i]) * (float(from[i]) * reciprocals[r]);
      }
    });
  });
}

void geglu(const Tensor& x, const Tensor& y) {
  const int64_t width = y.dim(-1);
  visit(x.dtype(), [&]<class T>() {
    const T* from = x.data<T>();
    T* to = y.data<T>();
    parallel_for(y.numel() / std::max<int64_t>(width, 1), rows_worth(geglu_grain, width),
                 [=](int64_t begin, int64_t end) {
                   for (int64_t r = begin; r < end; ++r) {
                     const T *h = from + r * 2 * width, *gate = h + width;
                     T* out = to + r * width;
#pragma omp simd
                     for (int64_t c = 0; c < width; ++c)
                       out[c] = T(float(h[c]) * (float(gate[c]) * normal_cdf(float(gate[c]))));
                   }
                 });
  });
}

void geglu_dx(const Tensor& dy, const Tensor& x, const Tensor& dx) {
  const int64_t width = dy.dim(-1);
  visit(x.dtype(), [&]<class T>() {
    const T *g = dy.data<T>(), *from = x.data<T>();
    T* to = dx.data<T>();
    parallel_for(dy.numel() / std::max<int64_t>(width, 1), rows_worth(geglu_grain, width),
                 [=](int64_t begin, int64_t end) {
                   for (int64_t r = begin; r < end; ++r) {
                     const T *out = g + r * width, *h = from + r * 2 * width, *gate = h + width;
                     T *dh = to + r * 2 * width, *dgate = dh + width;
#pragma omp simd
                     for (int64_t c = 0; c < width; ++c) {
                       const float z = float(gate[c]), cdf = normal_cdf(z);
                       dh[c] = T(float(out[c]) * (z * cdf));
                       dgate[c] = T(float(out[c]) * float(h[c]) * (cdf + z * normal_density(z)));
                     }
                   }
                 });
  });
}

}  // namespace flame::cpu
