#include "flame/ops/attention_kernels.h"
#include "flame/ops/rows_cuda.h"

namespace flame::cuda {
namespace {

constexpr int threads = 256;

// One row in the hands of `Warps` warps: Warps == 1 leaves room for other rows in the block.
template <int Warps>
struct Team {
  static constexpr int size = 32 * Warps, rows = threads / size;
  __device__ static int64_t row() { return blockIdx.x * int64_t{rows} + threadIdx.x / size; }
  __device__ static int member() { return static_cast<int>(threadIdx.x) % size; }

  // op over all members, in the order of the warps; `shared` holds a value of each warp.
  template <class Value, class InWarp, class Op>
  __device__ static Value reduce(Value value, Value* shared, const InWarp& in_warp, const Op& op) {
    value = in_warp(value);
    if constexpr (Warps > 1) {
      __syncthreads();  // the last use of `shared` is over
      if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
      __syncthreads();
      value = shared[0];
      for (int w = 1; w < Warps; ++w) value = op(value, shared[w]);
    }
    return value;
  }
  __device__ static float max(float value, float* shared) {
    return reduce(
        value, shared, [](float v) { return warp_max(v); }, [](float a, float b) { return fmaxf(a, b); });
  }
  __device__ static float sum(float value, float* shared) {
    return reduce(
        value, shared, [](float v) { return warp_sum(v); }, [](float a, float b) { return a + b; });
  }
};

template <class T, int Warps>
__global__ void __launch_bounds__(threads) softmax_kernel(const T* x, T* y, int64_t rows, int64_t width) {
  take_turn();
  __shared__ float shared[threads / 32];
  using Team = Team<Warps>;
  const int64_t row = Team::row();
  if (row >= rows) return;  // whole teams only
  x += row * width;
  y += row * width;
  float most = -INFINITY;
  for (int64_t c = Team::member(); c < width; c += Team::size) most = fmaxf(most, float(x[c]));
  most = Team::max(most, shared);
  float sum = 0;
  for (int64_t c = Team::member(); c < width; c += Team::size) sum += fast_exp(float(x[c]) - most);
  const float factor = 1 / Team::sum(sum, shared);
  for (int64_t c = Team::member(); c < width; c += Team::size) y[c] = T(fast_exp(float(x[c]) - most) * factor);
}

template <class T, int Warps>
__global__ void __launch_bounds__(threads)
    softmax_gradient_kernel(const T* y, const T* dy, T* dx, int64_t rows, int64_t width) {
  take_turn();
  __shared__ float shared[threads / 32];
  using Team = Team<Warps>;
  const int64_t row = Team::row();
  if (row >= rows) return;
  y += row * width;
  dy += row * width;
  dx += row * width;
  float sum = 0;
  for (int64_t c = Team::member(); c < width; c += Team::size) sum += float(y[c]) * float(dy[c]);
  const float mean = Team::sum(sum, shared);
  for (int64_t c = Team::member(); c < width; c += Team::size) dx[c] = T(float(y[c]) * (float(dy[c]) - mean));
}

template <class T, int Warps>
__global__ void __launch_bounds__(threads) log_softmax_kernel(const T* x, T* y, int64_t rows, int64_t width) {
  take_turn();
  __shared__ float shared[threads / 32];
  using Team = Team<Warps>;
  const int64_t row = Team::row();
  if (row >= rows) return;  // whole teams only
  x += row * width;
  y += row * width;
  float most = -INFINITY;
  for (int64_t c = Team::member(); c < width; c += Team::size) most = fmaxf(most, float(x[c]));
  most = Team::max(most, shared);
  float sum = 0;
  for (int64_t c = Team::member(); c < width; c += Team::size) sum += fast_exp(float(x[c]) - most);
  const float log_sum = logf(Team::sum(sum, shared));
  for (int64_t c = Team::member(); c < width; c += Team::size) y[c] = T(float(x[c]) - most - log_sum);
}

template <class T, int Warps>
__global__ void __launch_bounds__(threads)
    log_softmax_gradient_kernel(const T* y, const T* dy, T* dx, int64_t rows, int64_t width) {
  take_turn();
  __shared__ float shared[threads / 32];
  using Team = Team<Warps>;
  const int64_t row = Team::row();
  if (row >= rows) return;
  y += row * width;
  dy += row * width;
  dx += row * width;
  float sum = 0;
  for (int64_t c = Team::member(); c < width; c += Team::size) sum += float(dy[c]);
  sum = Team::sum(sum, shared);
  for (int64_t c = Team::member(); c < width; c += Team::size) dx[c] = T(float(dy[c]) - fast_exp(float(y[c])) * sum);
}

// Calls f with the warps of a team and the blocks that hold a team for every row.
template <class F>
void with_team(int64_t rows, int64_t width, const F& f) {
  const auto team = [&]<int Warps>() {
    constexpr int64_t at_once = Team<Warps>::rows;
    f(std::integral_constant<int, Warps>(), static_cast<unsigned>((rows + at_once - 1) / at_once));
  };
  if (width <= 512)
    team.template operator()<1>();
  else
    team.template operator()<threads / 32>();
}

}  // namespace

void softmax(const Tensor& x, const Tensor& y) {
  if (x.numel() == 0) return;
  const int64_t width = x.dim(-1), rows = x.numel() / width;
  visit(x.dtype(), [&]<class T>() {
    with_team(rows, width, [&](auto warps, unsigned blocks) {
      launch(softmax_kernel<T, warps()>, {blocks, threads, 0, stream(x.device())}, x.data<T>(), y.data<T>(), rows,
             width);
    });
  });
}

void softmax_gradient(const Tensor& y, const Tensor& dy, const Tensor& dx) {
  if (y.numel() == 0) return;
  const int64_t width = y.dim(-1), rows = y.numel() / width;
  visit(y.dtype(), [&]<class T>() {
    with_team(rows, width, [&](auto warps, unsigned blocks) {
      launch(softmax_gradient_kernel<T, warps()>, {blocks, threads, 0, stream(y.device())}, y.data<T>(), dy.data<T>(),
             dx.data<T>(), rows, width);
    });
  });
}

void log_softmax(const Tensor& x, const Tensor& y) {
  if (x.numel() == 0) return;
  const int64_t width = x.dim(-1), rows = x.numel() / width;
  visit(x.dtype(), [&]<class T>() {
    with_team(rows, width, [&](auto warps, unsigned blocks) {
      launch(log_softmax_kernel<T, warps()>, {blocks, threads, 0, stream(x.device())}, x.data<T>(), y.data<T>(), rows,
             width);
    });
  });
}

void log_softmax_gradient(const Tensor& y, const Tensor& dy, const Tensor& dx) {
  if (y.numel() == 0) return;
  const int64_t width = y.dim(-1), rows = y.numel() / width;
  visit(y.dtype(), [&]<class T>() {
    with_team(rows, width, [&](auto warps, unsigned blocks) {
      launch(log_softmax_gradient_kernel<T, warps()>, {blocks, threads, 0, stream(y.device())}, y.data<T>(),
             dy.data<T>(), dx.data<T>(), rows, width);
    });
  });
}

}  // namespace flame::cuda
