#include "flame/device/launch_cuda.h"
#include "flame/ops/as_f32.h"
#include "flame/ops/conv_gemm_cuda.h"
#include "flame/ops/gemm.h"
#include "flame/ops/layout_kernels.h"

namespace flame::cuda {
namespace {

// Which pixel a tap of the kernel sees from pixel i, along one axis: (i * step + offset + tap * turn) / divisor, where
// that is a whole number within [0, extent).
struct Axis {
  int pixels, taps, extent;
  int step, offset, turn, divisor;

  __device__ int seen(int pixel, int tap) const {
    const int at = pixel * step + offset + tap * turn;
    if (at < 0 || at % divisor != 0) return -1;
    const int source = at / divisor;
    return source < extent ? source : -1;
  }
};

// Rows of neighbourhoods: for each pixel of [n, rows.pixels, columns.pixels] the channels that its taps see.
struct Neighbourhoods {
  int64_t pixels;  // all of them
  Axis rows, columns;
  int64_t channels;
  int64_t width() const { return int64_t{rows.taps} * columns.taps * channels; }
};

Neighbourhoods seen_by_results(const Convolution& conv) {
  const auto axis = [&](int64_t results, int64_t taps, int64_t extent, int before) {
    return Axis{
        static_cast<int>(results), static_cast<int>(taps), static_cast<int>(extent), conv.stride, -before, 1, 1};
  };
  return {conv.x[0] * conv.height() * conv.width(), axis(conv.height(), conv.weight[1], conv.x[1], conv.padding.top),
          axis(conv.width(), conv.weight[2], conv.x[2], conv.padding.left), conv.x[3]};
}

// The results that an input has a part in.
Neighbourhoods seen_by_inputs(const Convolution& conv) {
  const auto axis = [&](int64_t inputs, int64_t taps, int64_t extent, int before) {
    return Axis{static_cast<int>(inputs), static_cast<int>(taps), static_cast<int>(extent), 1, before, -1, conv.stride};
  };
  return {conv.x.numel(0, 3), axis(conv.x[1], conv.weight[1], conv.height(), conv.padding.top),
          axis(conv.x[2], conv.weight[2], conv.width(), conv.padding.left), conv.weight[0]};
}

constexpr int lanes = 32, warps = 8;

// A warp for each pixel; `channels` counts chunks.
template <class Chunk>
__global__ void __launch_bounds__(lanes* warps)
    gather_kernel(const Chunk* from, Chunk* to, Axis rows, Axis columns, int channels, int64_t first, int64_t count) {
  take_turn();
  const int64_t local = int64_t{blockIdx.x} * warps + threadIdx.y;
  if (local >= count) return;
  const int64_t pixel = first + local;
  const int column = static_cast<int>(pixel % columns.pixels);
  const int row = static_cast<int>(pixel / columns.pixels % rows.pixels);
  const int64_t sample = pixel / columns.pixels / rows.pixels;
  const int width = rows.taps * columns.taps * channels;
  Chunk* const out = to + local * width;
  for (int i = threadIdx.x; i < width; i += lanes) {
    const int channel = i % channels, tap = i / channels;
    const int h = rows.seen(row, tap / columns.taps), w = columns.seen(column, tap % columns.taps);
    Chunk value{};
    if (h >= 0 && w >= 0) value = from[((sample * rows.extent + h) * columns.extent + w) * channels + channel];
    out[i] = value;
  }
}

template <class Chunk>
void gather(const Neighbourhoods& seen, const Tensor& x, int64_t first, const Tensor& rows) {
  const int64_t channels = seen.channels * static_cast<int64_t>(size_of(x.dtype())) / sizeof(Chunk);
  const auto blocks = static_cast<unsigned>((rows.dim(0) + warps - 1) / warps);
  launch(gather_kernel<Chunk>, {blocks, dim3(lanes, warps), 0, stream(x.device())},
         reinterpret_cast<const Chunk*>(x.raw()), reinterpret_cast<Chunk*>(rows.raw()), seen.rows, seen.columns,
         static_cast<int>(channels), first, rows.dim(0));
}

// rows [pixels, taps, channels] of the pixels from `first` on.
void gather(const Neighbourhoods& seen, const Tensor& x, int64_t first, const Tensor& rows) {
  const size_t size = size_of(x.dtype());
  const bool wide =
      seen.channels * size % sizeof(uint4) == 0 && reinterpret_cast<uintptr_t>(x.raw()) % sizeof(uint4) == 0;
  if (wide) return gather<uint4>(seen, x, first, rows);
  if (size == sizeof(float)) return gather<float>(seen, x, first, rows);
  gather<uint16_t>(seen, x, first, rows);
}

// Calls f(first pixel, rows) for blocks of pixels, `most` at a time, that take a bounded amount of memory.
template <class F>
void for_blocks(const Neighbourhoods& seen, const Tensor& x, const F& f, int64_t most = INT64_MAX) {
  constexpr int64_t most_bytes = int64_t{256} << 20;
  const int64_t width = seen.width(), row_bytes = width * static_cast<int64_t>(size_of(x.dtype()));
  require(width > 0 && width < INT32_MAX, "conv2d", "cannot convolve neighbourhoods of ", width, " values");
  const int64_t together = std::clamp<int64_t>(most_bytes / row_bytes, 1, std::min(seen.pixels, most));
  const Tensor scratch = Tensor::empty({together, width}, x.dtype(), x.device());
  for (int64_t first = 0; first < seen.pixels; first += together) {
    const Tensor rows = scratch.rows(0, std::min(together, seen.pixels - first));
    gather(seen, x, first, rows);
    f(first, rows);
  }
}

Tensor as_matrix(const Tensor& x) { return x.view({x.shape().numel(0, 3), x.dim(3)}); }

// One element of the larger matrix per step, 2 or 4 bytes each.
template <class T>
__global__ void fit_kernel(const T* from, int64_t from_rows, int64_t from_columns, T* to, int64_t count,
                           int64_t columns) {
  take_turn();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = i / columns, column = i % columns;
    to[i] = row < from_rows && column < from_columns ? from[row * from_columns + column] : T{};
  }
}

template <class T>
void fit(const Tensor& from, const Tensor& to) {
  constexpr int threads = 256;
  const int64_t from_columns = from.dim(-1), columns = to.dim(-1);
  launch(fit_kernel<T>, {blocks_for(to.device(), to.numel(), threads), threads, 0, stream(to.device())},
         reinterpret_cast<const T*>(from.raw()), from.numel() / from_columns, from_columns,
         reinterpret_cast<T*>(to.raw()), to.numel(), columns);
}

}  // namespace

void fit_matrix(const Tensor& from, const Tensor& to) {
  if (to.numel() == 0) return;
  if (size_of(to.dtype()) == sizeof(float))
    fit<float>(from, to);
  else
    fit<uint16_t>(from, to);
}

void conv2d_by_gemm(const Convolution& conv, const Tensor& x, const Tensor& weight, const Tensor& bias,
                    const Tensor& y) {
  const Neighbourhoods seen = seen_by_results(conv);
  const Tensor factors = weight.view({weight.dim(0), seen.width()}), results = as_matrix(y);
  for_blocks(seen, x, [&](int64_t first, const Tensor& rows) {
    gemm(rows, factors, results.rows(first, rows.dim(0)), {.transpose_b = true}, bias);
  });
}

void conv2d_input_gradient_by_gemm(const Convolution& conv, const Tensor& dy, const Tensor& weight, const Tensor& dx) {
  const Neighbourhoods seen = seen_by_inputs(conv);
  const Tensor turned =
      Tensor::empty({conv.weight[1], conv.weight[2], conv.weight[0], conv.weight[3]}, weight.dtype(), weight.device());
  permute(weight, turned, {1, 2, 0, 3});
  const Tensor factors = as_matrix(turned), results = as_matrix(dx);
  for_blocks(seen, dy,
             [&](int64_t first, const Tensor& rows) { gemm(rows, factors, results.rows(first, rows.dim(0))); });
}

void conv2d_weight_gradient_by_gemm(const Convolution& conv, const Tensor& x, const Tensor& dy, const Tensor& dw) {
  const Neighbourhoods seen = seen_by_results(conv);
  const Tensor gradients = as_f32(as_matrix(dy));
  constexpr int64_t most = 8192;  // pixels in a sum: a longer one in f32 loses what comes last
  write_as_f32(dw, [&](const Tensor& to) {
    const Tensor sums = to.view({to.dim(0), seen.width()});
    const auto add = [&](int64_t first, const Tensor& rows) {
      gemm(gradients.rows(first, rows.dim(0)), rows, sums, {.transpose_a = true, .accumulate = first > 0});
    };
    for_blocks(seen, as_f32(x), add, most);
  });
}

}  // namespace flame::cuda
