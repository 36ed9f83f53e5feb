#include <vector>

#include "flame/device/parallel.h"
#include "flame/ops/reduce_kernels.h"

namespace flame::cpu {
namespace {

// Elements that one thread sums in one go. Fixed, so that the order of a sum never depends on the threads.
constexpr int64_t block = 1 << 14;
constexpr int64_t grain = 1 << 18;  // worth waking a thread for
constexpr int64_t widest = 512;     // columns summed side by side

template <class T>
double sum_run(const T* x, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<float>(x[i]);
  return sum;
}

// sums[0, width) of `rows` rows that are `stride` apart.
template <class T>
void sum_columns(const T* x, int64_t rows, int64_t stride, int64_t width, double* sums) {
  std::fill(sums, sums + width, 0.0);
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const T *a = x + r * stride, *b = a + stride, *c = b + stride, *d = c + stride;
    for (int64_t i = 0; i < width; ++i)
      sums[i] += (double{static_cast<float>(a[i])} + static_cast<float>(b[i])) +
                 (double{static_cast<float>(c[i])} + static_cast<float>(d[i]));
  }
  for (; r < rows; ++r)
    for (int64_t i = 0; i < width; ++i) sums[i] += static_cast<float>(x[r * stride + i]);
}

template <class T, class U>
void sum_middle(const T* x, U* y, const Middle& m, double scale) {
  if (m.outer * m.inner == 0) return;
  if (m.count == 0) return std::fill(y, y + m.outer * m.inner, U(0.0f));
  const int64_t width = std::min(m.inner, widest), tiles = (m.inner + width - 1) / width;
  const int64_t rows = std::max<int64_t>(64, block / width), blocks = (m.count + rows - 1) / rows;
  std::vector<double> partial(blocks > 1 ? static_cast<size_t>(m.outer * blocks * m.inner) : 0);
  const int64_t work = std::min(rows, m.count) * width;
  parallel_for(m.outer * blocks * tiles, grain / std::max<int64_t>(work, 1), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t tile = item % tiles, part = item / tiles, o = part / blocks, first = part % blocks * rows;
      const int64_t column = tile * width, columns = std::min(width, m.inner - column);
      const int64_t count = std::min(rows, m.count - first);
      const T* from = x + (o * m.count + first) * m.inner + column;
      double local[widest];
      double* sums = blocks > 1 ? partial.data() + part * m.inner + column : local;
      if (m.inner == 1)
        sums[0] = sum_run(from, count);
      else
        sum_columns(from, count, m.inner, columns, sums);
      if (blocks > 1) continue;
      for (int64_t i = 0; i < columns; ++i) y[o * m.inner + column + i] = U(static_cast<float>(sums[i] * scale));
    }
  });
  if (blocks == 1) return;
  for (int64_t o = 0; o < m.outer; ++o) {
    double* sums = partial.data() + o * blocks * m.inner;
    for (int64_t b = 1; b < blocks; ++b)
      for (int64_t i = 0; i < m.inner; ++i) sums[i] += sums[b * m.inner + i];
    for (int64_t i = 0; i < m.inner; ++i) y[o * m.inner + i] = U(static_cast<float>(sums[i] * scale));
  }
}

template <class T, class U>
void spread_middle(const U* y, T* x, const Middle& m, double scale) {
  const float factor = static_cast<float>(scale);
  parallel_for(m.outer * m.count, grain / std::max<int64_t>(m.inner, 1), [=](int64_t begin, int64_t end) {
    if (m.inner == 1) {
      for (int64_t i = begin; i < end;) {
        const int64_t o = i / m.count, stop = std::min(end, (o + 1) * m.count);
        std::fill(x + i, x + stop, T(static_cast<float>(y[o]) * factor));
        i = stop;
      }
    } else {
      for (int64_t row = begin; row < end; ++row) {
        const U* from = y + row / m.count * m.inner;
        T* to = x + row * m.inner;
        for (int64_t i = 0; i < m.inner; ++i) to[i] = T(static_cast<float>(from[i]) * factor);
      }
    }
  });
}

}  // namespace

void sum_middle(const Tensor& x, const Tensor& y, const Middle& m, double scale) {
  visit(x.dtype(),
        [&]<class T>() { visit(y.dtype(), [&]<class U>() { sum_middle(x.data<T>(), y.data<U>(), m, scale); }); });
}

void spread_middle(const Tensor& y, const Tensor& x, const Middle& m, double scale) {
  visit(x.dtype(),
        [&]<class T>() { visit(y.dtype(), [&]<class U>() { spread_middle(y.data<U>(), x.data<T>(), m, scale); }); });
}

}  // namespace flame::cpu
