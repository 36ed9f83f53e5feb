#include <dnnl.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "flame/core/scalar_math.h"
#include "flame/device/parallel.h"
#include "flame/ops/as_f32.h"
#include "flame/ops/attention_kernels.h"

namespace flame::cpu {
namespace {

struct Softmax {
  float log_sum;  // of the exponentiated scores
  float sum;      // of what the row now holds
};

// row = exp(scale * row - its maximum).
Softmax exponentiate(float* row, int64_t n, float scale) {
  float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
  for (int64_t j = 0; j < n; ++j) most = std::max(most, row[j]);
  const float shift = scale * most;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += row[j] = fast_exp(std::fma(scale, row[j], -shift));
  return {shift + std::log(sum), sum};
}

void multiply_row(float* row, int64_t n, float factor) {
  for (int64_t j = 0; j < n; ++j) row[j] *= factor;
}

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += a[j] * b[j];
  return sum;
}

// Rows of a matrix at a stride: one head of [N, T, heads, D], or a scratch matrix.
struct Rows {
  float* data;
  int64_t stride;
  Rows from(int64_t row) const { return {data + row * stride, stride}; }
};

// c[m, n] = a b, or c += a b; 't' marks a factor that is stored transposed.
void multiply(char a_form, char b_form, int64_t m, int64_t n, int64_t k, Rows a, Rows b, Rows c, bool add = false) {
  dnnl_sgemm(a_form, b_form, m, n, k, 1, a.data, a.stride, b.data, b.stride, add ? 1 : 0, c.data, c.stride);
}

struct Problem {
  int64_t batch, queries, keys, heads, depth;
  bool causal;
  float scale;

  Problem(const Tensor& q, const Tensor& k, bool causal)
      : batch(q.dim(0)),
        queries(q.dim(1)),
        keys(k.dim(1)),
        heads(q.dim(2)),
        depth(q.dim(3)),
        causal(causal),
        scale(1 / std::sqrt(static_cast<float>(depth))) {}

  int64_t visible(int64_t query) const { return causal ? std::min(query + 1, keys) : keys; }
  Rows head(const Tensor& x, int64_t n, int64_t h) const {
    return {x.data<float>() + (n * x.dim(1) * heads + h) * depth, heads * depth};
  }
  // Rows of queries done together: their scores should stay in the cache.
  int64_t block() const { return std::min(queries, std::clamp<int64_t>((1 << 16) / keys, 64, 256)); }
  // Heads, or blocks of `rows` queries, that are worth a thread.
  int64_t grain(int64_t rows) const { return 1 + (1 << 18) / (rows * keys * depth + 1); }
};

void softmax_row(const float* x, float* y, int64_t n) {
  std::copy_n(x, n, y);
  multiply_row(y, n, 1 / exponentiate(y, n, 1).sum);
}

void softmax_gradient_row(const float* y, const float* dy, float* dx, int64_t n) {
  const float mean = dot(y, dy, n);
  for (int64_t j = 0; j < n; ++j) dx[j] = y[j] * (dy[j] - mean);
}

void log_softmax_row(const float* x, float* y, int64_t n) {
  const float most = *std::max_element(x, x + n);
  float sum = 0;
  for (int64_t j = 0; j < n; ++j) sum += fast_exp(x[j] - most);
  const float log_sum = std::log(sum);
  for (int64_t j = 0; j < n; ++j) y[j] = x[j] - most - log_sum;
}

void log_softmax_gradient_row(const float* y, const float* dy, float* dx, int64_t n) {
  const float sum = std::accumulate(dy, dy + n, 0.0f);
  for (int64_t j = 0; j < n; ++j) dx[j] = dy[j] - fast_exp(y[j]) * sum;
}

// Each row of `out` from those of `in`: row(in..., out, width).
template <class Row, class... In>
void map_rows(const Row& row, const Tensor& out, const In&... in) {
  const int64_t width = out.dim(-1), count = width ? out.numel() / width : 0;
  write_as_f32(out, [&](const Tensor& to) {
    parallel_for(count, 1 + 8192 / (width + 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        row(in.template data<float>() + i * width..., to.data<float>() + i * width, width);
    });
  });
}

}  // namespace

void softmax(const Tensor& x, const Tensor& y) { map_rows(softmax_row, y, as_f32(x)); }

void softmax_gradient(const Tensor& y, const Tensor& dy, const Tensor& dx) {
  map_rows(softmax_gradient_row, dx, as_f32(y), as_f32(dy));
}

void log_softmax(const Tensor& x, const Tensor& y) { map_rows(log_softmax_row, y, as_f32(x)); }

void log_softmax_gradient(const Tensor& y, const Tensor& dy, const Tensor& dx) {
  map_rows(log_softmax_gradient_row, dx, as_f32(y), as_f32(dy));
}

void attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
               const Tensor& log_sum) {
  const Problem problem(q, k, causal);
  const auto [batch, queries, keys, heads, depth, is_causal, scale] = problem;
  const int64_t block = problem.block(), blocks = (queries + block - 1) / block;
  const Tensor q32 = as_f32(q), k32 = as_f32(k), v32 = as_f32(v);
  write_as_f32(out, [&](const Tensor& out32) {
    parallel_for(batch * heads * blocks, problem.grain(block), [&](int64_t begin, int64_t end) {
      const Tensor scratch = Tensor::empty({block, keys});
      const Rows scores = {scratch.data<float>(), keys};
      for (int64_t item = begin; item < end; ++item) {
        const int64_t n = item / blocks / heads, h = item / blocks % heads, first = item % blocks * block;
        const int64_t rows = std::min(block, queries - first), width = problem.visible(first + rows - 1);
        const Rows result = problem.head(out32, n, h).from(first);
        float* sums = log_sum.data<float>() + (n * heads + h) * queries + first;
        multiply('n', 't', rows, width, depth, problem.head(q32, n, h).from(first), problem.head(k32, n, h), scores);
        float norm[256];
        for (int64_t i = 0; i < rows; ++i) {
          float* row = scores.from(i).data;
          const int64_t seen = problem.visible(first + i);
          const Softmax softmax = exponentiate(row, seen, scale);
          std::fill(row + seen, row + width, 0.0f);
          sums[i] = softmax.log_sum;
          norm[i] = 1 / softmax.sum;
        }
        multiply('n', 'n', rows, depth, width, scores, problem.head(v32, n, h), result);
        for (int64_t i = 0; i < rows; ++i) multiply_row(result.from(i).data, depth, norm[i]);
      }
    });
  });
}

namespace {

// One head's gradients; the keys' and values' are added to what is there.
struct HeadGradient {
  const Problem& problem;
  Rows q, k, v, out, dy, dq, dk, dv;  // without data where there is none
  const float* log_sum;
  Rows p, dp;  // scratch [block, keys]

  void block(int64_t first, int64_t rows) const {
    const int64_t width = problem.visible(first + rows - 1), depth = problem.depth;
    const Rows q = this->q.from(first), dy = this->dy.from(first);
    multiply('n', 't', rows, width, depth, q, k, p);
    for (int64_t i = 0; i < rows; ++i) {
      float* row = p.from(i).data;
      const int64_t seen = problem.visible(first + i);
      const float scale = problem.scale, shift = log_sum[first + i];
      for (int64_t j = 0; j < seen; ++j) row[j] = fast_exp(std::fma(scale, row[j], -shift));
      std::fill(row + seen, row + width, 0.0f);
    }
    if (dv.data) multiply('t', 'n', width, depth, rows, p, dy, dv, true);
    if (!dq.data && !dk.data) return;
    multiply('n', 't', rows, width, depth, dy, v, dp);
    for (int64_t i = 0; i < rows; ++i) {
      const float *a = p.from(i).data, mean = dot(dy.from(i).data, out.from(first + i).data, depth);
      float* row = dp.from(i).data;
      for (int64_t j = 0; j < width; ++j) row[j] = problem.scale * a[j] * (row[j] - mean);
    }
    if (dq.data) multiply('n', 'n', rows, depth, width, dp, k, dq.from(first));
    if (dk.data) multiply('t', 'n', width, depth, rows, dp, q, dk, true);
  }
};

}  // namespace

void attention_gradient(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& out,
                        const Tensor& log_sum, const Tensor& dy, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const Problem problem(q, k, causal);
  const int64_t heads = problem.heads, queries = problem.queries, block = problem.block();
  const Tensor q32 = as_f32(q), k32 = as_f32(k), v32 = as_f32(v), out32 = as_f32(out), dy32 = as_f32(dy);
  const auto compute = [&](const Tensor& dq32, const Tensor& dk32, const Tensor& dv32) {
    if (dk32.defined()) dk32.fill(0);
    if (dv32.defined()) dv32.fill(0);
    parallel_for(problem.batch * heads, problem.grain(queries), [&](int64_t begin, int64_t end) {
      const Tensor p = Tensor::empty({block, problem.keys}), dp = Tensor::empty({block, problem.keys});
      for (int64_t item = begin; item < end; ++item) {
        const auto head = [&](const Tensor& x) {
          return x.defined() ? problem.head(x, item / heads, item % heads) : Rows{nullptr, 0};
        };
        const HeadGradient gradient = {problem,
                                       head(q32),
                                       head(k32),
                                       head(v32),
                                       head(out32),
                                       head(dy32),
                                       head(dq32),
                                       head(dk32),
                                       head(dv32),
                                       log_sum.data<float>() + item * queries,
                                       {p.data<float>(), problem.keys},
                                       {dp.data<float>(), problem.keys}};
        for (int64_t first = 0; first < queries; first += block)
          gradient.block(first, std::min(block, queries - first));
      }
    });
  };
  write_as_f32(dq, [&](const Tensor& dq32) {
    write_as_f32(dk,
                 [&](const Tensor& dk32) { write_as_f32(dv, [&](const Tensor& dv32) { compute(dq32, dk32, dv32); }); });
  });
}

}  // namespace flame::cpu
