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
  float *mean, *rstd;
  int64_t rows, columns;
  float eps;
};

template <class T, int V, int K>
__global__ void __launch_bounds__(32 * rows_per_block) forward_kernel(const Forward<T> task) {
  take_turn();
  const int64_t r = blockIdx.x * int64_t{rows_per_block} + threadIdx.y;
  if (r >= task.rows) return;
  const Row<T, V, K> x(task.x + r * task.columns, task.columns);
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
  if (threadIdx.x == 0) {
    task.mean[r] = static_cast<float>(center + rest);
    task.rstd[r] = scale;
  }

  T* y = task.y + r * task.columns;
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
  const T *dy, *x, *weight;
  const float *mean, *rstd;
  T* dx;
  int64_t rows, columns;
};

template <class T, int V, int K>
__global__ void __launch_bounds__(32 * rows_per_block) backward_kernel(const Backward<T> task) {
  take_turn();
  const int64_t r = blockIdx.x * int64_t{rows_per_block} + threadIdx.y;
  if (r >= task.rows) return;
  const Row<T, V, K> dy(task.dy + r * task.columns, task.columns), x(task.x + r * task.columns, task.columns);
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
    store(task.dx + r * task.columns + c, out);
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

bool all_in_packs(std::initializer_list<Tensor> all) {
  return std::all_of(all.begin(), all.end(), [](const Tensor& x) { return in_packs(rows_of(x)); });
}

}  // namespace

void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, const Tensor& y,
                const Tensor& mean, const Tensor& rstd) {
  if (x.numel() == 0) return;
  const int64_t columns = x.dim(-1), rows = x.numel() / columns;
  visit(x.dtype(), [&]<class T>() {
    const Forward<T> task = {x.data<T>(),
                             weight.data<T>(),
                             bias.data<T>(),
                             y.data<T>(),
                             mean.data<float>(),
                             rstd.data<float>(),
                             rows,
                             columns,
                             eps};
    with_row_form<T>(columns, all_in_packs({x, weight, bias, y}), [&](auto size, auto most) {
      launch(forward_kernel<T, size(), most()>, {blocks(rows), threads, 0, stream(x.device())}, task);
    });
  });
}

void layer_norm_dx(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                   const Tensor& dx) {
  if (x.numel() == 0) return;
  const int64_t columns = x.dim(-1), rows = x.numel() / columns;
  visit(x.dtype(), [&]<class T>() {
    const Backward<T> task = {dy.data<T>(), x.data<T>(), weight.data<T>(), mean.data<float>(), rstd.data<float>(),
                              dx.data<T>(), rows,        columns};
    with_row_form<T>(columns, all_in_packs({dy, x, weight, dx}), [&](auto size, auto most) {
      launch(backward_kernel<T, size(), most()>, {blocks(rows), threads, 0, stream(x.device())}, task);
    });
  });
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
