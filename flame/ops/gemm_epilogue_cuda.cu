#include "flame/device/launch_cuda.h"
#include "flame/ops/gemm_epilogue_cuda.h"

namespace flame::cuda {
namespace {

template <class T>
struct View {
  T* data;
  int64_t pitch, batch_stride;

  explicit View(const Matrix& x) : data(reinterpret_cast<T*>(x.data)), pitch(x.pitch), batch_stride(x.batch_stride) {}
  __device__ T& at(int64_t matrix, int64_t row, int64_t column) const {
    return data[matrix * batch_stride + row * pitch + column];
  }
};

template <class T>
__global__ void finish_kernel(const float* sum, float beta, View<T> c, const T* bias, View<T> out, int64_t rows,
                              int64_t columns, int64_t count) {
  take_turn();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t column = i % columns, row = i / columns % rows, matrix = i / columns / rows;
    float value = sum ? sum[i] : 0.0f;
    if (beta != 0) value += beta * static_cast<float>(c.at(matrix, row, column));
    if (bias) value += static_cast<float>(bias[column]);
    out.at(matrix, row, column) = static_cast<T>(value);
  }
}

}  // namespace

void finish_product(Device device, cudaStream_t stream, const float* sum, float beta, const Matrix& c,
                    const std::byte* bias, const Matrix& out) {
  const int64_t count = out.batch * out.rows * out.columns;
  visit(out.dtype, [&]<class T>() {
    launch(finish_kernel<T>, {blocks_for(device, count, 256), 256, 0, stream}, sum, beta, View<T>(c),
           reinterpret_cast<const T*>(bias), View<T>(out), out.rows, out.columns, count);
  });
}

}  // namespace flame::cuda
