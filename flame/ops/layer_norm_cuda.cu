#include <algorithm>

#include "flame/ops/norm_kernels.h"
#include "flame/ops/rows_cuda.h"

// A warp works on a row, which it holds in registers where it can.
namespace flame::cuda {
namespace {

constexpr int rows_per_block = 4;

// Calls f(k, c) for the packs of a row that are this lane's: the k-th begins at column c. K is the most there can be,
// or 0 if there is no bound.
template <int V, int K, class F>
__device__ void for_packs(int64_t columns, const F& f) {
  if constexpr (K > 0) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int c = (k * 32 + static_cast<int>(threadIdx.x)) * V;
      if (c < columns) f(k, c);
    }
  } else {
    for (int64_t c = int64_t{threadIdx.x} * V; c < columns; c += 32 * V) f(0, c);
  }
}

// A lane's part of a row: held in registers, or read again whenever it is asked for if K is 0.
template <class T, int V, int K>
class Row {
 public:
  __device__ Row(const T* data, int64_t columns) : data_(data) {
    if constexpr (K > 0) for_packs<V, K>(columns, [&](int k, int64_t c) { held_[k] = load<V>(data + c); });
  }
  __device__ Pack<T, V> operator()(int k, int64_t c) const {
    if constexpr (K > 0)
      return held_[k];
    else
      return load<V>(data_ + c);
  }

 private:
  const T* data_;
  Pack<T, V> held_[K > 0 ? K : 1];
};

// A row of any length needs more than f32 to sum it lane by lane.
template <int K>
using Sum = std::conditional_t<(K > 0), float, double>;

__device__ inline float reciprocal_root(float x) { return 1.0f / sqrtf(x); }
__device__ inline double reciprocal_root(double x) { return 1.0 / sqrt(x); }

template <class T>
struct Forward {
  const T *x, *weight, *bias;
  T* y;
  float *mean, *rstd;  // or null
  int64_t rows, columns, x_pitch, y_pitch;
  float eps;
};

template <class T, int V, int K>
__global__ void __launch_bounds__(32 * rows_per_block) forward_kernel(const Forward<T> task) {
  take_turn();
  const int64_t r = blockIdx.x * int64_t{rows_per_block} + threadIdx.y;
  if (r >= task.rows) return;
  const Row<T, V, K> x(task.x + r * task.x_pitch, task.columns);
  const Sum<K> count = static_cast<Sum<K>>(task.columns);

  // The mean in two parts: what rounding the first takes is found around it.
  Sum<K> sum = 0;
  for_packs<V, K>(task.columns, [&](int k, int64_t c) {
    const Pack<T, V> pack = x(k, c);
#pragma unroll
    for (int i = 0; i < V; ++i) sum += pack[i];
  });
  const float center = static_cast<float>(warp_sum(sum) / count);
  Sum<K> shift = 0, squares = 0;
  for_packs<V, K>(task.columns, [&](int k, int64_t c) {
    const Pack<T, V> pack = x(k, c);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Sum<K> distance = pack[i] - center;
      shift += distance;
      squares += distance * distance;
    }
  });
  const Sum<K> rest = warp_sum(shift) / count, raw = warp_sum(squares) / count - rest * rest;
  const Sum<K> variance = raw < 0 ? Sum<K>(0) : raw;  // NaN stays NaN
  const float offset = static_cast<float>(rest), scale = static_cast<float>(reciprocal_root(variance + task.eps));
  if (threadIdx.x == 0 && task.mean) {
    task.mean[r] = static_cast<float>(center + rest);
    task.rstd[r] = scale;
  }

  T* y = task.y + r * task.y_pitch;
  for_packs<V, K>(task.columns, [&](int k, int64_t c) {
    const Pack<T, V> pack = x(k, c), weight = load<V>(task.weight + c), bias = load<V>(task.bias + c);
    float out[V];
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = fmaf((pack[i] - center - offset) * scale, weight[i], bias[i]);
    store(y + c, out);
  });
}

template <class T>
struct Backward {
  const T *dy, *x, *weight, *bias, *residual;  // the last two or null
  const float *mean, *rstd;
  T *dx, *again;  // the last or null
  int64_t rows, columns, dy_pitch, x_pitch, residual_pitch, dx_pitch, again_pitch;
};

template <class T, int V, int K>
__global__ void __launch_bounds__(32 * rows_per_block) backward_kernel(const Backward<T> task) {
  take_turn();
  const int64_t r = blockIdx.x * int64_t{rows_per_block} + threadIdx.y;
  if (r >= task.rows) return;
  const Row<T, V, K> dy(task.dy + r * task.dy_pitch, task.columns), x(task.x + r * task.x_pitch, task.columns);
  const float mean = task.mean[r], rstd = task.rstd[r];
  Sum<K> sum = 0, products = 0;
  for_packs<V, K>(task.columns, [&](int k, int64_t c) {
    const Pack<T, V> slope = dy(k, c), value = x(k, c), weight = load<V>(task.weight + c);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Sum<K> g = slope[i] * weight[i];
      sum += g;
      products += g * (value[i] - mean);
    }
  });
  const Sum<K> count = static_cast<Sum<K>>(task.columns);
  const float a = static_cast<float>(-warp_sum(sum) / count * rstd);
  const float b = static_cast<float>(-warp_sum(products) / count * rstd * rstd * rstd);

  for_packs<V, K>(task.columns, [&](int k, int64_t c) {
    const Pack<T, V> slope = dy(k, c), value = x(k, c), weight = load<V>(task.weight + c);
    float out[V];
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = fmaf(slope[i] * weight[i], rstd, fmaf(value[i] - mean, b, a));
    if (task.residual) {
      const Pack<T, V> residual = load<V>(task.residual + r * task.residual_pitch + c);
#pragma unroll
      for (int i = 0; i < V; ++i) out[i] += residual[i];
    }
    store(task.dx + r * task.dx_pitch + c, out);
    if (task.again) {
      const Pack<T, V> bias = load<V>(task.bias + c);
#pragma unroll
      for (int i = 0; i < V; ++i) out[i] = fmaf((value[i] - mean) * rstd, weight[i], bias[i]);
      store(task.again + r * task.again_pitch + c, out);
    }
  });
}

template <class T>
__global__ void products_kernel(const T* dy, const T* x, const float* mean, const float* rstd, int64_t columns,
                                int64_t count, float* out) {
  take_turn();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t r = i / columns;
    out[i] = float(dy[i]) * ((float(x[i]) - mean[r]) * rstd[r]);
  }
}

// Calls f with V and K: rows in packs that a warp's registers can hold, or element after element.
template <class T, class F>
void with_row_form(int64_t columns, bool packed, const F& f) {
  constexpr int V = pack_size<T>;
  using std::integral_constant;
  const auto form = [&]<int Size, int Most>() { f(integral_constant<int, Size>(), integral_constant<int, Most>()); };
  if (!packed) return form.template operator()<1, 0>();
  const int64_t a_lane = (columns + 32 * V - 1) / (32 * V);
  if (a_lane <= 3) return form.template operator()<V, 3>();
  if (a_lane <= 5) return form.template operator()<V, 5>();
  if (a_lane <= 12) return form.template operator()<V, 12>();
  form.template operator()<V, 0>();
}

dim3 blocks(int64_t rows) { return dim3(static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block)); }
const dim3 threads(32, rows_per_block);

}  // namespace

Rows rows_of(const Tensor& x) {
  if (!x.defined()) return {};
  const int64_t columns = x.rank() ? x.dim(-1) : 1;
  return {x.raw(), x.dtype(), columns ? x.numel() / columns : 0, columns, columns};
}

void layer_norm_rows(const Rows& x, const Tensor& weight, const Tensor& bias, float eps, const Rows& y,
                     const Tensor& mean, const Tensor& rstd) {
  require_rows("layer_norm_rows", "y", y, x.dtype, x.rows, x.columns);
  require(weight.numel() == x.columns && bias.numel() == x.columns, "layer_norm_rows", "expected ", x.columns,
          " gains and biases, got ", weight.shape(), " and ", bias.shape());
  require(mean.defined() == rstd.defined() && (!mean.defined() || (mean.numel() == x.rows && rstd.numel() == x.rows)),
          "layer_norm_rows", "expected mean and rstd of ", x.rows, " rows, or neither");
  if (x.rows == 0) return;
  const bool packed = in_packs(x) && in_packs(y) && in_packs(rows_of(weight)) && in_packs(rows_of(bias));
  visit(x.dtype, [&]<class T>() {
    const Forward<T> task = {data<T>(x),
                             weight.data<T>(),
                             bias.data<T>(),
                             data<T>(y),
                             data_or_null<float>(mean),
                             data_or_null<float>(rstd),
                             x.rows,
                             x.columns,
                             x.pitch,
                             y.pitch,
                             eps};
    with_row_form<T>(x.columns, packed, [&](auto size, auto most) {
      launch(forward_kernel<T, size(), most()>, {blocks(x.rows), threads, 0, stream(weight.device())}, task);
    });
  });
}

void layer_norm_backward_rows(const LayerNormBackward& task) {
  const Rows& x = task.x;
  const Op op = "layer_norm_backward_rows";
  require_rows(op, "dy", task.dy, x.dtype, x.rows, x.columns);
  require_rows(op, "dx", task.dx, x.dtype, x.rows, x.columns);
  require_rows(op, "residual", task.residual, x.dtype, x.rows, x.columns, true);
  require_rows(op, "again", task.again, x.dtype, x.rows, x.columns, true);
  require(task.weight.numel() == x.columns && task.mean.numel() == x.rows && task.rstd.numel() == x.rows, op,
          "expected ", x.columns, " gains and the mean and rstd of ", x.rows, " rows, got ", task.weight.shape(), ", ",
          task.mean.shape(), " and ", task.rstd.shape());
  require(!task.again.defined() || (task.bias.defined() && task.bias.numel() == x.columns), op, "expected ", x.columns,
          " biases to make the output again");
  if (x.rows == 0) return;
  const bool packed = in_packs(x) && in_packs(task.dy) && in_packs(task.dx) && in_packs(task.residual) &&
                      in_packs(task.again) && in_packs(rows_of(task.weight)) && in_packs(rows_of(task.bias));
  visit(x.dtype, [&]<class T>() {
    const Backward<T> kernel_task = {data<T>(task.dy),
                                     data<T>(x),
                                     task.weight.data<T>(),
                                     data_or_null<T>(task.bias),
                                     data<T>(task.residual),
                                     task.mean.data<float>(),
                                     task.rstd.data<float>(),
                                     data<T>(task.dx),
                                     data<T>(task.again),
                                     x.rows,
                                     x.columns,
                                     task.dy.pitch,
                                     x.pitch,
                                     task.residual.pitch,
                                     task.dx.pitch,
                                     task.again.pitch};
    with_row_form<T>(x.columns, packed, [&](auto size, auto most) {
      launch(backward_kernel<T, size(), most()>, {blocks(x.rows), threads, 0, stream(task.weight.device())},
             kernel_task);
    });
  });
}

void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, const Tensor& y,
                const Tensor& mean, const Tensor& rstd) {
  layer_norm_rows(rows_of(x), weight, bias, eps, rows_of(y), mean, rstd);
}

void layer_norm_dx(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                   const Tensor& dx) {
  layer_norm_backward_rows({rows_of(dy), rows_of(x), weight, {}, mean, rstd, {}, rows_of(dx), {}});
}

void layer_norm_products(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& out) {
  const int64_t count = x.numel();
  if (count == 0) return;
  visit(x.dtype(), [&]<class T>() {
    launch(products_kernel<T>, {blocks_for(x.device(), count, 256), 256, 0, stream(x.device())}, dy.data<T>(),
           x.data<T>(), mean.data<float>(), rstd.data<float>(), x.dim(-1), count, out.data<float>());
  });
}

}  // namespace flame::cuda
