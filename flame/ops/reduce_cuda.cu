#include <algorithm>
#include <bit>

#include "flame/ops/apply_cuda.h"
#include "flame/ops/reduce_cuda.h"
#include "flame/ops/reduce_kernels.h"

// Sums are kept in double, so that the order in which they are taken hardly matters; it is fixed nevertheless.
namespace flame::cuda {
namespace {

constexpr int block = 256;
constexpr int64_t wanted_blocks = 1024;  // enough for every card; fixed, so that the order of a sum is

template <class T>
__device__ double widened(T value) {
  if constexpr (std::is_same_v<T, double>)
    return value;
  else
    return static_cast<float>(value);
}

template <class U>
__device__ U narrowed(double value) {
  if constexpr (std::is_same_v<U, double>)
    return value;
  else
    return U(static_cast<float>(value));
}

template <class T, int N>
__device__ double sum(const Chunk<T, N>& chunk) {
  double result = widened(chunk.values[0]);
#pragma unroll
  for (int i = 1; i < N; ++i) result += widened(chunk.values[i]);
  return result;
}

// Rows of `count` elements, each in `parts` of `length`: y[row * parts + part] = scale * the part's sum. A group of
// blockDim.x threads sums a part: a power of two up to 32, or a whole block.
template <int N, class T, class U>
__global__ void sum_rows_kernel(const T* x, U* y, int64_t sums, int parts, int64_t count, int64_t length,
                                double scale) {
  take_turn();
  const int64_t item = blockIdx.x * int64_t{blockDim.y} + threadIdx.y, row = item / parts;
  double total = 0;
  if (item < sums) {
    const int64_t begin = item % parts * length, end = begin + length < count ? begin + length : count;
    const T* from = x + row * count;
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x * N; i < end; i += blockDim.x * N) total += sum(load_chunk<N>(from + i));
  }
  total = blockDim.x > 32 ? sum_block(total) : sum_lanes(total, blockDim.x);
  if (item < sums && threadIdx.x == 0) y[item] = narrowed<U>(total * scale);
}

// Columns of [outer, count, inner], in `parts` of `length` rows: y[part * outer * inner + column] = scale * the part's
// sum. A thread takes N neighbouring columns of every blockDim.y-th row; a power of two shares the rows of a column.
template <int N, class T, class U>
__global__ void sum_columns_kernel(const T* x, U* y, Middle m, int64_t tiles, int64_t length, double scale) {
  take_turn();
  __shared__ double shared[N][block];
  const int64_t columns = m.outer * m.inner, part = blockIdx.x / tiles;
  const int64_t column = ((blockIdx.x - part * tiles) * blockDim.x + threadIdx.x) * N;
  double sums[N] = {};
  if (column < columns) {
    const int64_t o = column / m.inner, begin = part * length;
    const int64_t end = begin + length < m.count ? begin + length : m.count;
    const T* from = x + o * m.count * m.inner + (column - o * m.inner);
#pragma unroll 4
    for (int64_t row = begin + threadIdx.y; row < end; row += blockDim.y) {
      const Chunk<T, N> chunk = load_chunk<N>(from + row * m.inner);
#pragma unroll
      for (int i = 0; i < N; ++i) sums[i] += widened(chunk.values[i]);
    }
  }
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int i = 0; i < N; ++i) shared[i][thread] = sums[i];
  for (unsigned rows = blockDim.y / 2; rows > 0; rows /= 2) {
    __syncthreads();
    if (threadIdx.y < rows) {
      for (int i = 0; i < N; ++i) shared[i][thread] += shared[i][thread + rows * blockDim.x];
    }
  }
  if (threadIdx.y > 0 || column >= columns) return;
  for (int i = 0; i < N; ++i) y[part * columns + column + i] = narrowed<U>(shared[i][thread] * scale);
}

int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// The smallest power of two that is not less than n, up to `most`, which is one.
int64_t power(int64_t n, int64_t most) {
  return n >= most ? most : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(n, 1))));
}

double* partial_sums(const Tensor& storage) { return reinterpret_cast<double*>(storage.raw()); }

template <int N, class T, class U>
void sum_rows(Device device, const T* x, U* y, int64_t rows, int64_t count, double scale) {
  const int64_t lanes = count >= 2048 ? block : power(count / (2 * N), 32), together = block / lanes;
  const int64_t parts = std::clamp<int64_t>(wanted_blocks / rows, 1, std::max<int64_t>(count / (8 * block * N), 1));
  const int64_t length = blocks_of(blocks_of(count, parts), N) * N;
  const dim3 threads(static_cast<unsigned>(lanes), static_cast<unsigned>(together));
  const auto blocks = static_cast<unsigned>(blocks_of(rows * parts, together));
  const LaunchGrid grid(blocks, threads, 0, stream(device));
  if (parts == 1) return launch(sum_rows_kernel<N, T, U>, grid, x, y, rows, 1, count, length, scale);
  const Tensor storage = Tensor::empty({rows * parts}, DType::i64, device);  // of the size of doubles
  launch(sum_rows_kernel<N, T, double>, grid, x, partial_sums(storage), rows * parts, static_cast<int>(parts), count,
         length, 1.0);
  sum_rows<1>(device, static_cast<const double*>(partial_sums(storage)), y, rows, parts, scale);
}

template <int N, class T, class U>
void sum_columns(Device device, const T* x, U* y, const Middle& m, double scale) {
  const int64_t columns = m.outer * m.inner, chunks = columns / N;
  const int64_t shared_by = power(m.count / 4, 32);  // threads for the rows of a column
  const int64_t wide = power(chunks, block / shared_by), high = std::min(power(m.count, block), block / wide);
  const int64_t tiles = blocks_of(chunks, wide);
  const int64_t parts = std::clamp<int64_t>(wanted_blocks / tiles, 1, std::max<int64_t>(m.count / (8 * high), 1));
  const int64_t length = blocks_of(m.count, parts);
  const dim3 threads(static_cast<unsigned>(wide), static_cast<unsigned>(high));
  const auto blocks = static_cast<unsigned>(tiles * parts);
  const LaunchGrid grid(blocks, threads, 0, stream(device));
  if (parts == 1) return launch(sum_columns_kernel<N, T, U>, grid, x, y, m, tiles, length, scale);
  const Tensor storage = Tensor::empty({parts * columns}, DType::i64, device);
  launch(sum_columns_kernel<N, T, double>, grid, x, partial_sums(storage), m, tiles, length, 1.0);
  const auto* partial = static_cast<const double*>(partial_sums(storage));
  if (columns == 1) return sum_rows<1>(device, partial, y, 1, parts, scale);
  sum_columns<1>(device, partial, y, {1, parts, columns}, scale);
}

template <class T, class U>
void sum_middle(Device device, const T* x, U* y, const Middle& m, double scale) {
  constexpr int n = 16 / sizeof(T);
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  if (m.inner == 1 && m.count >= 16) {
    aligned&& m.count % n == 0 ? sum_rows<n>(device, x, y, m.outer, m.count, scale)
                               : sum_rows<1>(device, x, y, m.outer, m.count, scale);
  } else {
    aligned&& m.inner % n == 0 ? sum_columns<n>(device, x, y, m, scale) : sum_columns<1>(device, x, y, m, scale);
  }
}

struct Times {
  float factor;
  FLAME_SCALAR float operator()(float x) const { return x * factor; }
};

// Between passes f32, at the ends the tensors' dtype: other pairs do not occur.
template <class T, class U>
constexpr bool is_pair = std::is_same_v<T, U> || std::is_same_v<T, float> || std::is_same_v<U, float>;

template <class F>
void visit_pair(const Tensor& x, const Tensor& y, const F& f) {
  visit(x.dtype(), [&]<class T>() {
    visit(y.dtype(), [&]<class U>() {
      if constexpr (is_pair<T, U>)
        f(static_cast<const T*>(x.data<T>()), y.data<U>());
      else
        fail("expected f32 or one dtype, got ", x.dtype(), " and ", y.dtype());
    });
  });
}

}  // namespace

void sum_middle(const Tensor& x, const Tensor& y, const Middle& m, double scale) {
  if (m.outer * m.inner == 0) return;
  visit_pair(x, y, [&](const auto* from, auto* to) { sum_middle(x.device(), from, to, m, scale); });
}

void spread_middle(const Tensor& y, const Tensor& x, const Middle& m, double scale) {
  const Shape whole = {m.outer, m.count, m.inner}, summed = {m.outer, 1, m.inner};
  visit_pair(y, x, [&](const auto* from, auto* to) {
    apply(x.device(), Times{static_cast<float>(scale)}, broadcast_walk(whole, summed), to, from);
  });
}

}  // namespace flame::cuda
