#include "flame/ops/extended_kernels_cuda.h"
#include "flame/ops/rows_cuda.h"

namespace flame::cuda {
namespace {

constexpr int warp = 32, warps = 8, vector = 8;

template <class T>
struct View {
  T* data;
  int64_t rows, columns, pitch;
  explicit View(const Matrix& m)
      : data(reinterpret_cast<T*>(m.data)), rows(m.rows), columns(m.columns), pitch(m.pitch) {}
};

// A row's chunks of eight that one lane has, as floats.
template <class T, int chunks>
__device__ void load_row(const T* row, int64_t columns, float (&x)[chunks][vector]) {
  constexpr int V = pack_size<T>;
  const int lane = threadIdx.x % warp;
#pragma unroll
  for (int c = 0; c < chunks; ++c) {
    const int64_t at = (c * warp + lane) * vector;
#pragma unroll
    for (int k = 0; k < vector; k += V) {
      Pack<T, V> pack = {};
      if (at < columns) pack = load<V>(row + at + k);
#pragma unroll
      for (int i = 0; i < V; ++i) x[c][k + i] = pack[i];
    }
  }
}

template <class T, int chunks>
__device__ void store_row(T* row, int64_t columns, const float (&x)[chunks][vector]) {
  constexpr int V = pack_size<T>;
  const int lane = threadIdx.x % warp;
#pragma unroll
  for (int c = 0; c < chunks; ++c) {
    const int64_t at = (c * warp + lane) * vector;
    if (at >= columns) continue;
#pragma unroll
    for (int k = 0; k < vector; k += V) {
      float values[V];
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] = x[c][k + i];
      store(row + at + k, values);
    }
  }
}

template <class T, int chunks>
__global__ void normalize_kernel(View<T> x, float eps, View<T> x_hat, float* rstd) {
  take_turn();
  const int64_t row = int64_t{blockIdx.x} * warps + threadIdx.x / warp;
  if (row >= x.rows) return;
  const float width = static_cast<float>(x.columns);
  float value[chunks][vector];
  load_row<T, chunks>(x.data + row * x.pitch, x.columns, value);
  float sum = 0;
#pragma unroll
  for (int c = 0; c < chunks; ++c)
    for (int k = 0; k < vector; ++k) sum += value[c][k];
  const float mean = warp_sum(sum) / width;
  float squares = 0;
#pragma unroll
  for (int c = 0; c < chunks; ++c) {
    const bool inside = (c * warp + threadIdx.x % warp) * vector < x.columns;
    for (int k = 0; k < vector; ++k) {
      value[c][k] = inside ? value[c][k] - mean : 0.0f;
      squares += value[c][k] * value[c][k];
    }
  }
  const float scale = 1 / sqrtf(warp_sum(squares) / width + eps);
#pragma unroll
  for (int c = 0; c < chunks; ++c)
    for (int k = 0; k < vector; ++k) value[c][k] *= scale;
  store_row<T, chunks>(x_hat.data + row * x_hat.pitch, x.columns, value);
  if (threadIdx.x % warp == 0) rstd[row] = scale;
}

template <class T, int chunks>
__global__ void normalize_gradient_kernel(View<T> g, View<T> x_hat, const float* rstd, View<T> residual, View<T> dx) {
  take_turn();
  const int64_t row = int64_t{blockIdx.x} * warps + threadIdx.x / warp;
  if (row >= g.rows) return;
  float slope[chunks][vector], unit[chunks][vector], result[chunks][vector];
  load_row<T, chunks>(g.data + row * g.pitch, g.columns, slope);
  load_row<T, chunks>(x_hat.data + row * x_hat.pitch, g.columns, unit);
  load_row<T, chunks>(residual.data + row * residual.pitch, g.columns, result);
  float sum = 0, products = 0;
#pragma unroll
  for (int c = 0; c < chunks; ++c) {
    for (int k = 0; k < vector; ++k) {
      sum += slope[c][k];
      products += slope[c][k] * unit[c][k];
    }
  }
  const float width = static_cast<float>(g.columns), scale = rstd[row];
  const float mean = warp_sum(sum) / width, along = warp_sum(products) / width;
#pragma unroll
  for (int c = 0; c < chunks; ++c)
    for (int k = 0; k < vector; ++k) result[c][k] += scale * (slope[c][k] - mean - unit[c][k] * along);
  store_row<T, chunks>(dx.data + row * dx.pitch, g.columns, result);
}

// Calls f.operator()<T, chunks>() for a row width.
template <class F>
void by_width(DType dtype, int64_t columns, const F& f) {
  require(columns % vector == 0 && columns <= 8 * warp * vector, "normalize_rows",
          "expected columns in eights, at most 2048, got ", columns);
  visit(dtype, [&]<class T>() {
    if (columns <= 3 * warp * vector) return f.template operator()<T, 3>();
    if (columns <= 5 * warp * vector) return f.template operator()<T, 5>();
    return f.template operator()<T, 8>();
  });
}

template <class T>
__global__ void refresh_kernel(const AdapterPlace* places) {
  take_turn();
  const AdapterPlace place = places[blockIdx.y];
  T *a = static_cast<T*>(place.a), *b = static_cast<T*>(place.b), *constants = static_cast<T*>(place.constants);
  // The first `rank` blocks take a row of A each, the others rows of B.
  if (blockIdx.x < place.rank) {
    const int64_t j = blockIdx.x;
    const float* row = place.down + j * place.in;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < place.in; i += blockDim.x) {
      const float value = row[i];
      a[j * place.pitch_a + i] = T(place.gain ? value * place.gain[i] : value);
      if (place.shift) sum += value * place.shift[i];
    }
    if (!place.shift) return;
    __shared__ float sums[warps];
    sum = warp_sum(sum);
    if (threadIdx.x % warp == 0) sums[threadIdx.x / warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      float total = 0;
      for (int w = 0; w < warps; ++w) total += sums[w];
      constants[j] = T(total);
    }
    return;
  }
  const auto rank = static_cast<unsigned>(place.rank), count = static_cast<unsigned>(place.out) * rank;
  for (unsigned i = (blockIdx.x - rank) * blockDim.x + threadIdx.x; i < count; i += (gridDim.x - rank) * blockDim.x)
    b[i / rank * place.pitch_b + i % rank] = T(place.scale * place.up[i]);
}

__global__ void add_gradients_kernel(const float* sums, const GradientPart* parts) {
  take_turn();
  const GradientPart part = parts[blockIdx.y];
  for (int64_t j = blockIdx.x; j < part.rows; j += gridDim.x)
    for (int64_t i = threadIdx.x; i < part.columns; i += blockDim.x)
      part.to[j * part.columns + i] += part.scale * sums[part.from + j * part.from_pitch + i];
}

template <class T>
__global__ void place_kernel(const T* weight, const float* gain, T* to, int64_t in, int64_t pitch) {
  take_turn();
  const int64_t o = blockIdx.x;
  for (int64_t i = threadIdx.x; i < in; i += blockDim.x) {
    const float w = static_cast<float>(weight[o * in + i]);
    to[o * pitch + i] = T(gain ? w * gain[i] : w);
  }
}

// One warp a row.
template <class T>
__global__ void place_bias_kernel(const T* weight, const T* bias, const float* shift, T* to, int64_t out, int64_t in,
                                  int64_t pitch) {
  take_turn();
  const int64_t o = int64_t{blockIdx.x} * warps + threadIdx.x / warp;
  if (o >= out) return;
  float sum = 0;
  if (shift)
    for (int64_t i = threadIdx.x % warp; i < in; i += warp) sum += static_cast<float>(weight[o * in + i]) * shift[i];
  sum = warp_sum(sum);
  if (threadIdx.x % warp == 0) to[o * pitch] = T(sum + (bias ? static_cast<float>(bias[o]) : 0.0f));
}

// Eight columns a thread, of two bytes each.
__global__ void fill_rows_kernel(const uint4* row, std::byte* to, int64_t rows, int packs, int64_t pitch_bytes) {
  take_turn();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < rows * packs) *reinterpret_cast<uint4*>(to + i / packs * pitch_bytes + i % packs * 16) = row[i % packs];
}

__global__ void copy_rows_kernel(const std::byte* from, int64_t from_pitch, std::byte* to, int64_t to_pitch,
                                 int64_t rows, int packs) {
  take_turn();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows * packs) return;
  const int64_t row = i / packs, at = i % packs * int64_t{sizeof(uint4)};
  *reinterpret_cast<uint4*>(to + row * to_pitch + at) = *reinterpret_cast<const uint4*>(from + row * from_pitch + at);
}

unsigned row_blocks(int64_t rows) { return static_cast<unsigned>((rows + warps - 1) / warps); }

}  // namespace

void normalize_rows(Device device, const Matrix& x, float eps, const Matrix& x_hat, float* rstd) {
  if (x.rows == 0) return;
  by_width(x.dtype, x.columns, [&]<class T, int chunks>() {
    launch(normalize_kernel<T, chunks>, {row_blocks(x.rows), warp * warps, 0, stream(device)}, View<T>(x), eps,
           View<T>(x_hat), rstd);
  });
}

void normalize_rows_gradient(Device device, const Matrix& g, const Matrix& x_hat, const float* rstd,
                             const Matrix& residual, const Matrix& dx) {
  if (g.rows == 0) return;
  by_width(g.dtype, g.columns, [&]<class T, int chunks>() {
    launch(normalize_gradient_kernel<T, chunks>, {row_blocks(g.rows), warp * warps, 0, stream(device)}, View<T>(g),
           View<T>(x_hat), rstd, View<T>(residual), View<T>(dx));
  });
}

void refresh_adapters(Device device, const AdapterPlace* places, int count, int64_t most_rows, DType dtype) {
  if (count == 0) return;
  constexpr int64_t blocks_for_b = 16;
  const dim3 grid(static_cast<unsigned>(most_rows + blocks_for_b), static_cast<unsigned>(count));
  visit(dtype, [&]<class T>() { launch(refresh_kernel<T>, {grid, warp * warps, 0, stream(device)}, places); });
}

void add_gradients(cudaStream_t stream, const float* sums, const GradientPart* parts_on_device, int count,
                   int64_t most_rows) {
  if (count == 0) return;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(most_rows, 256)), static_cast<unsigned>(count));
  launch(add_gradients_kernel, {grid, 256, 0, stream}, sums, parts_on_device);
}

void place_weight(Device device, const Tensor& weight, const float* gain, const Matrix& rows) {
  visit(weight.dtype(), [&]<class T>() {
    launch(place_kernel<T>, {static_cast<unsigned>(weight.dim(0)), warp * warps, 0, stream(device)}, weight.data<T>(),
           gain, reinterpret_cast<T*>(rows.data), weight.dim(1), rows.pitch);
  });
}

void place_bias(Device device, const Tensor& weight, const Tensor& bias, const float* shift, std::byte* to,
                int64_t pitch) {
  visit(weight.dtype(), [&]<class T>() {
    launch(place_bias_kernel<T>, {row_blocks(weight.dim(0)), warp * warps, 0, stream(device)}, weight.data<T>(),
           bias.defined() ? bias.data<T>() : nullptr, shift, reinterpret_cast<T*>(to), weight.dim(0), weight.dim(1),
           pitch);
  });
}

void fill_rows(cudaStream_t stream, const Tensor& row, const Matrix& to) {
  require(size_of(to.dtype) == 2 && to.columns % 64 == 0 && row.shape() == Shape{to.columns} && to.pitch % 8 == 0,
          "fill_rows", "expected a row of a multiple of 64 columns of 2 bytes, got ", row.shape(), " ", to.dtype);
  if (to.rows == 0) return;
  constexpr int threads = 256;
  const auto packs = static_cast<int>(to.columns / 8);
  const auto blocks = static_cast<unsigned>((to.rows * packs + threads - 1) / threads);
  launch(fill_rows_kernel, {blocks, threads, 0, stream}, reinterpret_cast<const uint4*>(row.raw()), to.data, to.rows,
         packs, to.pitch * 2);
}

void copy_rows(cudaStream_t stream, const Matrix& from, const Matrix& to) {
  const auto bytes = [&](int64_t columns) { return columns * static_cast<int64_t>(size_of(from.dtype)); };
  const int64_t width = bytes(from.columns), from_pitch = bytes(from.pitch), to_pitch = bytes(to.pitch);
  if (from.rows == 0 || width == 0) return;
  const auto begins = reinterpret_cast<uintptr_t>(from.data) | reinterpret_cast<uintptr_t>(to.data);
  if ((begins | static_cast<uintptr_t>(width | from_pitch | to_pitch)) % sizeof(uint4) != 0)
    return check(cudaMemcpy2DAsync(to.data, static_cast<size_t>(to_pitch), from.data, static_cast<size_t>(from_pitch),
                                   static_cast<size_t>(width), static_cast<size_t>(from.rows), cudaMemcpyDeviceToDevice,
                                   stream));
  constexpr int threads = 256;
  const int64_t packs = width / static_cast<int64_t>(sizeof(uint4));
  const auto blocks = static_cast<unsigned>((from.rows * packs + threads - 1) / threads);
  launch(copy_rows_kernel, {blocks, threads, 0, stream}, from.data, from_pitch, to.data, to_pitch, from.rows,
         static_cast<int>(packs));
}

}  // namespace flame::cuda
