#include "flame/ops/apply_cuda.h"
#include "flame/ops/converted.h"
#include "flame/ops/layout_kernels.h"

namespace flame::cuda {
namespace {

struct Same {
  template <class T>
  __device__ T operator()(T x) const {
    return x;
  }
};

template <class U>
struct Converted {
  template <class T>
  __device__ U operator()(T x) const {
    return converted<U>(x);
  }
};

template <class T>
struct Constant {
  T value;
  __device__ T operator()() const { return value; }
};

struct SumOfFour {
  __device__ float operator()(float a, float b, float c, float d) const { return (a + b) + (c + d); }
};

// Moving does not look at values: calls f with an unsigned type of so many bytes.
template <class F>
void visit_bytes(int64_t bytes, const F& f) {
  switch (bytes) {
    case 1:
      return f.template operator()<uint8_t>();
    case 2:
      return f.template operator()<uint16_t>();
    case 4:
      return f.template operator()<uint32_t>();
    case 8:
      return f.template operator()<uint64_t>();
    default:
      return f.template operator()<uint4>();
  }
}

// The walk over elements of `size` bytes as one over the largest units, up to 16 bytes, that divide all its runs.
int64_t widen(Walk<2>& walk, int64_t size, const std::byte* to, const std::byte* from) {
  const int last = walk.rank - 1;
  if (walk.rank == 0 || walk.stride[0][last] != 1 || walk.stride[1][last] != 1) return size;
  uint64_t all = 16 | reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  all |= static_cast<uint64_t>(walk.extent[last] * size);
  for (int axis = 0; axis < last; ++axis)
    all |= static_cast<uint64_t>((walk.stride[0][axis] | walk.stride[1][axis]) * size);
  const int64_t unit = int64_t{1} << std::countr_zero(all);
  walk.count = walk.count * size / unit;
  walk.extent[last] = walk.extent[last] * size / unit;
  for (int axis = 0; axis < last; ++axis) {
    for (auto& strides : walk.stride) strides[axis] = strides[axis] * size / unit;
  }
  return unit;
}

// Copies elements of `size` bytes along a walk that counts them.
void move(Device device, Walk<2> walk, int64_t size, std::byte* to, const std::byte* from) {
  visit_bytes(widen(walk, size, to, from), [&]<class T>() {
    apply(device, Same{}, walk, reinterpret_cast<T*>(to), reinterpret_cast<const T*>(from));
  });
}

int64_t size_of_element(const Tensor& x) { return static_cast<int64_t>(size_of(x.dtype())); }

constexpr int tile = 32;
constexpr int tile_rows = 8;  // threads

// Batches of [columns, rows], `column_stride` apart, become [rows, columns], `row_stride` apart.
template <class T>
__global__ void transpose_kernel(const T* from, T* to, const __grid_constant__ Walk<2> batches, int64_t rows,
                                 int64_t columns, int64_t row_stride, int64_t column_stride) {
  take_turn();
  __shared__ T values[tile][tile + 1];
  const auto row_tiles = static_cast<unsigned>((rows + tile - 1) / tile);
  const auto column_tiles = static_cast<unsigned>((columns + tile - 1) / tile);
  const unsigned item = blockIdx.x / row_tiles, batch = item / column_tiles;
  const int64_t row = int64_t{blockIdx.x - item * row_tiles} * tile;
  const int64_t column = int64_t{item - batch * column_tiles} * tile;
  const auto [to_batch, from_batch] = offsets(batches, batch);
  for (int k = threadIdx.y; k < tile; k += tile_rows) {
    const int64_t r = row + threadIdx.x, c = column + k;
    if (r < rows && c < columns) values[k][threadIdx.x] = from[from_batch + c * column_stride + r];
  }
  __syncthreads();
  for (int k = threadIdx.y; k < tile; k += tile_rows) {
    const int64_t r = row + k, c = column + threadIdx.x;
    if (r < rows && c < columns) to[to_batch + r * row_stride + c] = values[threadIdx.x][k];
  }
}

// Of the walk's axes, the last is contiguous in the result and `contiguous` in the source.
void transpose(Device device, const Walk<2>& walk, int contiguous, int64_t size, std::byte* to, const std::byte* from) {
  const int last = walk.rank - 1;
  const int64_t rows = walk.extent[contiguous], columns = walk.extent[last];
  Walk<2> batches;
  for (int axis = 0; axis < last; ++axis) {
    if (axis != contiguous) batches.add(walk.extent[axis], {walk.stride[0][axis], walk.stride[1][axis]});
  }
  const int64_t tiles = batches.count * ((rows + tile - 1) / tile) * ((columns + tile - 1) / tile);
  require(tiles <= std::numeric_limits<int32_t>::max(), "permute", "a tensor of ", walk.count,
          " elements is too large");
  visit_bytes(size, [&]<class T>() {
    launch(transpose_kernel<T>, {static_cast<unsigned>(tiles), dim3(tile, tile_rows), 0, stream(device)},
           reinterpret_cast<const T*>(from), reinterpret_cast<T*>(to), batches, rows, columns,
           walk.stride[0][contiguous], walk.stride[1][last]);
  });
}

}  // namespace

void copy_runs(const Tensor& from, const Tensor& to, const Runs& runs) {
  const int64_t size = size_of_element(to);
  Walk<2> walk;
  walk.add(runs.count, {runs.to_stride, runs.from_stride});
  walk.add(runs.length, {1, 1});
  move(to.device(), walk, size, to.raw() + runs.to * size, from.raw() + runs.from * size);
}

void fill_runs(const Tensor& to, const Runs& runs, double value) {
  Walk<1> walk;
  walk.add(runs.count, {runs.to_stride});
  walk.add(runs.length, {1});
  visit_all(to.dtype(), [&]<class T>() {
    apply(to.device(), Constant<T>{converted<T>(static_cast<float>(value))}, walk, to.data<T>() + runs.to);
  });
}

void permute(const Tensor& x, const Tensor& y, const std::vector<int>& axes) {
  if (x.numel() == 0) return;
  Walk<2> walk;
  for (int i = 0; i < x.rank(); ++i)
    walk.add(y.shape()[i], {y.shape().numel(i + 1, y.rank()), x.shape().numel(axes[i] + 1, x.rank())});
  const int64_t size = size_of_element(x);
  int contiguous = walk.rank - 1;
  while (contiguous > 0 && walk.stride[1][contiguous] != 1) --contiguous;
  // Of thin matrices a warp's loads or stores still share their sectors, but tiles would stand mostly empty.
  const bool thick = contiguous < walk.rank - 1 && std::min(walk.extent[contiguous], walk.extent[walk.rank - 1]) >= 8;
  thick ? transpose(x.device(), walk, contiguous, size, y.raw(), x.raw())
        : move(x.device(), walk, size, y.raw(), x.raw());
}

void upsample(const Tensor& x, const Tensor& y) {
  const int64_t width = x.dim(2), channels = x.dim(3), row = width * channels;
  Walk<2> walk;
  walk.add(x.dim(0) * x.dim(1), {4 * row, row});
  walk.add(2, {2 * row, 0});
  walk.add(width, {2 * channels, channels});
  walk.add(2, {channels, 0});
  walk.add(channels, {1, 1});
  move(x.device(), walk, size_of_element(x), y.raw(), x.raw());
}

void sum_squares(const Tensor& dy, const Tensor& dx) {
  const int64_t width = dx.dim(2), channels = dx.dim(3), row = width * channels;
  Walk<5> walk;
  const auto add = [&](int64_t extent, int64_t to, int64_t from) { walk.add(extent, {to, from, from, from, from}); };
  add(dx.dim(0) * dx.dim(1), row, 4 * row);
  add(width, channels, 2 * channels);
  add(channels, 1, 1);
  visit(dx.dtype(), [&]<class T>() {
    const T *upper = dy.data<T>(), *lower = upper + 2 * row;
    apply(dx.device(), SumOfFour{}, walk, dx.data<T>(), upper, upper + channels, lower, lower + channels);
  });
}

void cast(const Tensor& x, const Tensor& y) {
  Walk<2> walk;
  walk.add(x.numel(), {1, 1});
  visit_all(x.dtype(), [&]<class T>() {
    visit_all(y.dtype(), [&]<class U>() {
      apply(x.device(), Converted<U>{}, walk, y.data<U>(), static_cast<const T*>(x.data<T>()));
    });
  });
}

}  // namespace flame::cuda
