#include "flame/ops/group_norm_cuda.h"
#include "flame/ops/norm_kernels.h"

namespace flame::cuda {
namespace {

constexpr int threads = group_norm_threads;

// Sums of dz, the gradient before silu, and of dz (x - mean).
struct Slopes {
  float sum, products;
};

template <class T>
struct Backward {
  const T *x, *dy, *weight, *bias;  // the last two or null
  T* dx;                            // or null
  const float *mean, *rstd;
  Slopes *of_groups, *of_channels;  // the latter or null
};

// V neighbouring channels of a sample: what leads from x and dy to dz.
template <class T, int V, bool Silu>
struct Channels {
  float mean[V], scale[V], bias[V];

  __device__ Channels(const GroupNormGrid& grid, const Backward<T>& task, int64_t sample, int first) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int64_t group = sample * grid.groups + (first + i) / grid.size;
      mean[i] = task.mean[group];
      scale[i] = task.weight ? task.rstd[group] * float(task.weight[first + i]) : 0;
      bias[i] = Silu ? float(task.bias[first + i]) : 0;
    }
  }
  __device__ float centered(float x, int i) const { return x - mean[i]; }
  __device__ float dz(float dy, float centered, int i) const {
    if (!Silu) return dy;
    const float z = fmaf(centered, scale[i], bias[i]), s = sigmoid<T>(z);
    return dy * s * (1 + z * (1 - s));
  }
};

// of_groups[(sample * groups + group) * chunks + chunk] is weighted by the gain,
// of_channels[(sample * chunks + chunk) * channels + channel] is not.
template <class T, int V, bool Silu>
__global__ void __launch_bounds__(threads, group_norm_residents)
    gather(const GroupNormGrid grid, const Backward<T> task) {
  take_turn();
  __shared__ Slopes entries[threads * V];
  const GroupNormTile tile(grid);
  for_segments<V>(tile, [&](const GroupNormSegment<V>& segment) {
    if (segment.active) {
      const int first = tile.first_channel + segment.begin + segment.column;
      const Channels<T, V, Silu> channels(grid, task, tile.sample, first);
      float sum[V] = {}, products[V] = {};
#pragma unroll 2
      for (int64_t r = tile.first_row + segment.lane; r < tile.first_row + tile.rows; r += segment.lanes) {
        const Pack<T, V> x = load<V>(task.x + r * grid.channels + first),
                         dy = load<V>(task.dy + r * grid.channels + first);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const float centered = channels.centered(x[i], i), dz = channels.dz(dy[i], centered, i);
          sum[i] += dz;
          products[i] = fmaf(dz, centered, products[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < V; ++i) entries[segment.lane * segment.width + segment.column + i] = {sum[i], products[i]};
    }
    __syncthreads();
    const int filled = segment.filled(tile), base = tile.first_channel + segment.begin;
    for_groups(tile, [&](int group) {
      const int from = segment.from(group, grid.size), to = segment.to(group, grid.size);
      if (from >= to || !task.weight) return;
      float sum = 0, products = 0;
      for (int i = static_cast<int>(threadIdx.x) % 32; i < filled * (to - from); i += 32) {
        const int channel = from + i % (to - from);
        const Slopes entry = entries[i / (to - from) * segment.width + channel];
        const float weight = float(task.weight[base + channel]);
        sum = fmaf(weight, entry.sum, sum);
        products = fmaf(weight, entry.products, products);
      }
      sum = warp_sum(sum), products = warp_sum(products);
      if (threadIdx.x % 32 != 0) return;
      Slopes& result =
          task.of_groups[(tile.sample * grid.groups + tile.first_group + group) * grid.chunks + tile.chunk];
      const bool goes_on = group * grid.size < segment.begin;  // from an earlier segment
      result = goes_on ? Slopes{result.sum + sum, result.products + products} : Slopes{sum, products};
    });
    if (task.of_channels) {
      Slopes* result = task.of_channels + (tile.sample * grid.chunks + tile.chunk) * grid.channels + base;
      for (int channel = static_cast<int>(threadIdx.x); channel < segment.width; channel += threads) {
        Slopes total = {};
        for (int lane = 0; lane < filled; ++lane) {
          const Slopes entry = entries[lane * segment.width + channel];
          total.sum += entry.sum;
          total.products += entry.products;
        }
        result[channel] = total;
      }
    }
    __syncthreads();  // entries are free again
  });
}

// dx = rstd (weight dz - mean(weight dz) - x^ mean(weight dz x^)), x^ the normalised x.
template <class T, int V, bool Silu>
__global__ void __launch_bounds__(threads, group_norm_residents)
    spread(const GroupNormGrid grid, const Backward<T> task) {
  take_turn();
  __shared__ float constants[most_groups], of_x[most_groups];
  const GroupNormTile tile(grid);
  for_groups(tile, [&](int group) {
    const int64_t at = tile.sample * grid.groups + tile.first_group + group;
    float sum = 0, products = 0;
    for (int i = static_cast<int>(threadIdx.x) % 32; i < grid.chunks; i += 32) {
      const Slopes part = task.of_groups[at * grid.chunks + i];
      sum += part.sum;
      products += part.products;
    }
    const float elements = static_cast<float>(grid.positions * grid.size), rstd = task.rstd[at];
    constants[group] = -warp_sum(sum) / elements * rstd;
    of_x[group] = -warp_sum(products) / elements * rstd * rstd * rstd;
  });
  __syncthreads();

  for_segments<V>(tile, [&](const GroupNormSegment<V>& segment) {
    const int channel = segment.begin + segment.column, first = tile.first_channel + channel;
    if (!segment.active) return;
    const Channels<T, V, Silu> channels(grid, task, tile.sample, first);
    float constant[V], slope[V];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      constant[i] = constants[(channel + i) / grid.size];
      slope[i] = of_x[(channel + i) / grid.size];
    }
#pragma unroll 2
    for (int64_t r = segment.last(tile); r >= tile.first_row; r -= segment.lanes) {
      const Pack<T, V> x = load<V>(task.x + r * grid.channels + first),
                       dy = load<V>(task.dy + r * grid.channels + first);
      float out[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float centered = channels.centered(x[i], i), dz = channels.dz(dy[i], centered, i);
        out[i] = fmaf(dz, channels.scale[i], fmaf(centered, slope[i], constant[i]));
      }
      store(task.dx + r * grid.channels + first, out);
    }
  });
}

// The sums of all chunks of all samples: a thread a channel.
template <class T>
__global__ void __launch_bounds__(threads) settle(const GroupNormGrid grid, int64_t samples, const Slopes* of_channels,
                                                  const float* rstd, T* dweight, T* dbias) {
  take_turn();
  const int channel = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  if (channel >= grid.channels) return;
  float weight = 0, bias = 0;
  for (int64_t n = 0; n < samples; ++n) {
    Slopes total = {};
    for (int chunk = 0; chunk < grid.chunks; ++chunk) {
      const Slopes part = of_channels[(n * grid.chunks + chunk) * grid.channels + channel];
      total.sum += part.sum;
      total.products += part.products;
    }
    weight = fmaf(total.products, rstd[n * grid.groups + channel / grid.size], weight);
    bias += total.sum;
  }
  if (dweight) dweight[channel] = T(weight);
  if (dbias) dbias[channel] = T(bias);
}

}  // namespace

void group_norm_backward(const GroupNormTask& task, const Tensor& dy, const NormGradients& gradients) {
  const Tensor& x = task.x;
  const int64_t samples = x.dim(0), channels = x.dim(-1), rows = x.numel() / channels;
  const bool of_channels = gradients.dweight.defined() || gradients.dbias.defined();
  const Device device = x.device();
  const bool packed = in_packs(rows_of(x)) && in_packs(rows_of(dy)) && in_packs(rows_of(gradients.dx));
  visit(x.dtype(), [&]<class T>() {
    const auto run = [&]<int V, bool Silu>() {
      const GroupNormGrid grid(samples, rows / samples, static_cast<int>(channels), task.groups, V, sizeof(T));
      const Tensor groups = Tensor::empty({samples * task.groups, grid.chunks, 2}, DType::f32, device);
      const Tensor all =
          of_channels ? Tensor::empty({samples * grid.chunks, channels, 2}, DType::f32, device) : Tensor();
      const Backward<T> pass = {x.data<T>(),
                                dy.data<T>(),
                                data_or_null<T>(task.weight),
                                data_or_null<T>(task.bias),
                                data_or_null<T>(gradients.dx),
                                task.mean.data<float>(),
                                task.rstd.data<float>(),
                                reinterpret_cast<Slopes*>(groups.raw()),
                                all.defined() ? reinterpret_cast<Slopes*>(all.raw()) : nullptr};
      const LaunchGrid blocks(static_cast<unsigned>(grid.blocks), threads, 0, stream(device));
      launch(gather<T, V, Silu>, blocks, grid, pass);
      if (pass.dx) launch(spread<T, V, Silu>, blocks, grid, pass);
      if (of_channels)
        launch(settle<T>, {static_cast<unsigned>((channels + threads - 1) / threads), threads, 0, stream(device)}, grid,
               samples, pass.of_channels, pass.rstd, data_or_null<T>(gradients.dweight),
               data_or_null<T>(gradients.dbias));
    };
    const auto with_silu = [&]<int V>() {
      if (task.silu)
        run.template operator()<V, true>();
      else
        run.template operator()<V, false>();
    };
    if (packed)
      with_silu.template operator()<pack_size<T>>();
    else
      with_silu.template operator()<1>();
  });
}

}  // namespace flame::cuda
