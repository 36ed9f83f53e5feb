#include "flame/ops/norm_kernels.h"
#include "flame/ops/rows_cuda.h"

// A warp works on a row, which it reads twice. Sums are f64: a row may be of any length.
namespace flame::cuda {
namespace {

constexpr int rows_per_block = 4;

__device__ inline int64_t warp_row() { return blockIdx.x * int64_t{rows_per_block} + threadIdx.y; }

template <class T>
__global__ void forward_kernel(const T* x, const T* weight, int64_t rows, int64_t columns, float eps, T* y,
                               float* rrms) {
  take_turn();
  const int64_t r = warp_row();
  if (r >= rows) return;
  x += r * columns;
  y += r * columns;
  double squares = 0;
  for (int64_t c = threadIdx.x; c < columns; c += 32) squares += double(float(x[c])) * double(float(x[c]));
  const float scale = static_cast<float>(1.0 / sqrt(warp_sum(squares) / static_cast<double>(columns) + eps));
  if (threadIdx.x == 0) rrms[r] = scale;
  for (int64_t c = threadIdx.x; c < columns; c += 32) y[c] = T(float(x[c]) * scale * float(weight[c]));
}

template <class T>
__global__ void backward_kernel(const T* dy, const T* x, const T* weight, const float* rrms, int64_t rows,
                                int64_t columns, T* dx) {
  take_turn();
  const int64_t r = warp_row();
  if (r >= rows) return;
  dy += r * columns;
  x += r * columns;
  dx += r * columns;
  double products = 0;
  for (int64_t c = threadIdx.x; c < columns; c += 32)
    products += double(float(dy[c]) * float(weight[c])) * double(float(x[c]));
  const float scale = rrms[r];
  const float b = static_cast<float>(-warp_sum(products) / static_cast<double>(columns)) * scale * scale * scale;
  for (int64_t c = threadIdx.x; c < columns; c += 32)
    dx[c] = T(fmaf(float(dy[c]) * float(weight[c]), scale, float(x[c]) * b));
}

template <class T>
__global__ void products_kernel(const T* dy, const T* x, const float* rrms, int64_t columns, int64_t count,
                                float* out) {
  take_turn();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x)
    out[i] = float(dy[i]) * (float(x[i]) * rrms[i / columns]);
}

dim3 blocks(int64_t rows) { return dim3(static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block)); }
const dim3 threads(32, rows_per_block);

}  // namespace

void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y, const Tensor& rrms) {
  const int64_t columns = x.dim(-1), rows = x.numel() / columns;
  if (rows == 0) return;
  visit(x.dtype(), [&]<class T>() {
    launch(forward_kernel<T>, {blocks(rows), threads, 0, stream(x.device())}, x.data<T>(), weight.data<T>(), rows,
           columns, eps, y.data<T>(), rrms.data<float>());
  });
}

void rms_norm_dx(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rrms, const Tensor& dx) {
  const int64_t columns = x.dim(-1), rows = x.numel() / columns;
  if (rows == 0) return;
  visit(x.dtype(), [&]<class T>() {
    launch(backward_kernel<T>, {blocks(rows), threads, 0, stream(x.device())}, dy.data<T>(), x.data<T>(),
           weight.data<T>(), rrms.data<float>(), rows, columns, dx.data<T>());
  });
}

void rms_norm_products(const Tensor& dy, const Tensor& x, const Tensor& rrms, const Tensor& out) {
  const int64_t count = x.numel();
  if (count == 0) return;
  visit(x.dtype(), [&]<class T>() {
    launch(products_kernel<T>, {blocks_for(x.device(), count, 256), 256, 0, stream(x.device())}, dy.data<T>(),
           x.data<T>(), rrms.data<float>(), x.dim(-1), count, out.data<float>());
  });
}

}  // namespace flame::cuda
