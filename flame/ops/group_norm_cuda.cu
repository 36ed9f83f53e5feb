#include "flame/ops/group_norm_cuda.h"
#include "flame/ops/norm_kernels.h"

namespace flame::cuda {
namespace {

constexpr int threads = group_norm_threads;

// Mean and sum of squared distances from it of some elements; the mean is counted from a value of the group.
struct Moments {
  float mean, squares;
};

// The moments of what `count` parts hold together, in the hands of a warp: part(i) gives the number of elements and
// their moments. Chan, Golub and LeVeque (1979).
template <class Part>
__device__ Moments merged(int count, float elements, const Part& part) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sum = 0, squares = 0;
  for (int i = lane; i < count; i += 32) {
    const auto [n, moments] = part(i);
    sum += n * moments.mean;
  }
  const float mean = warp_sum(sum) / elements;
  for (int i = lane; i < count; i += 32) {
    const auto [n, moments] = part(i);
    const float distance = moments.mean - mean;
    squares += moments.squares + n * distance * distance;
  }
  return {mean, warp_sum(squares)};
}

struct Part {
  float count;
  Moments moments;
};

// moments[(sample * groups + group) * chunks + chunk].
template <class T, int V>
__global__ void __launch_bounds__(threads, group_norm_residents)
    gather(const GroupNormGrid grid, const GroupNormColumns<const T> x, const GroupNormAdded<T> added,
           Moments* moments) {
  __shared__ Moments entries[threads * V];
  __shared__ float reference[most_groups];
  const GroupNormTile tile(grid);
  for (int group = static_cast<int>(threadIdx.x); group < tile.groups; group += threads)
    reference[group] = float(*x(tile.first_channel + group * grid.size).row(tile.sample * grid.positions));
  __syncthreads();

  for_segments<V>(tile, [&](const GroupNormSegment<V>& segment) {
    if (segment.active) {
      // Around one of a column's own values no more is lost than their number allows, wherever that value lies.
      const int channel = segment.begin + segment.column;
      const auto column = x(tile.first_channel + channel);
      const Pack<T, V> first = load<V>(column.row(tile.first_row + segment.lane));
      float sum[V] = {}, squares[V] = {};
#pragma unroll 4
      for (int64_t r = segment.lane + segment.lanes; r < tile.rows; r += segment.lanes) {
        const Pack<T, V> pack = load<V>(column.row(tile.first_row + r));
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const float distance = pack[i] - first[i];
          sum[i] += distance;
          squares[i] = fmaf(distance, distance, squares[i]);
        }
      }
      const float count = segment.count(tile, segment.lane);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float shift = sum[i] / count, own = squares[i] - shift * sum[i];
        const float begin = first[i] - reference[(channel + i) / grid.size];
        entries[segment.lane * segment.width + segment.column + i] = {
            begin + shift + added(tile.sample, tile.first_channel + channel + i), own < 0 ? 0 : own};
      }
    }
    __syncthreads();
    for_groups(tile, [&](int group) {
      const int from = segment.from(group, grid.size), to = segment.to(group, grid.size);
      if (from >= to) return;
      const auto entry = [&](int i) -> Part {
        const int lane = i / (to - from);
        return {segment.count(tile, lane), entries[lane * segment.width + from + i % (to - from)]};
      };
      const float elements = static_cast<float>(tile.rows * (to - from));
      Moments own = merged(segment.filled(tile) * (to - from), elements, entry);
      if (threadIdx.x % 32 != 0) return;
      Moments& result = moments[(tile.sample * grid.groups + tile.first_group + group) * grid.chunks + tile.chunk];
      const int before = segment.begin + from - group * grid.size;  // channels of earlier segments
      if (before > 0) {
        const float distance = own.mean - result.mean, part = static_cast<float>(to - from) / (before + to - from);
        own.squares += result.squares + distance * distance * (static_cast<float>(tile.rows) * before * part);
        own.mean = result.mean + distance * part;
      }
      result = own;
    });
    __syncthreads();  // entries are free again
  });
}

template <class T>
struct Normalise {
  GroupNormColumns<const T> x;
  GroupNormAdded<T> added;
  const T *weight, *bias;
  const Moments* moments;
  float eps;
  T* y;
  int64_t y_pitch;
  float *mean, *rstd;
};

template <class T, int V, bool Silu>
__global__ void __launch_bounds__(threads, group_norm_residents)
    normalise(const GroupNormGrid grid, const Normalise<T> task) {
  __shared__ float references[most_groups], means[most_groups], scales[most_groups];  // of the slice's groups
  const GroupNormTile tile(grid);
  for_groups(tile, [&](int group) {
    const int64_t at = tile.sample * grid.groups + tile.first_group + group;
    const Moments* parts = task.moments + at * grid.chunks;
    const auto part = [&](int i) -> Part {
      const int64_t rows = min(grid.chunk_positions, grid.positions - i * grid.chunk_positions);
      return {static_cast<float>(rows * grid.size), parts[i]};
    };
    const float elements = static_cast<float>(grid.positions * grid.size);
    const Moments all = merged(grid.chunks, elements, part);
    if (threadIdx.x % 32 != 0) return;
    const float reference = float(*task.x(tile.first_channel + group * grid.size).row(tile.sample * grid.positions));
    const float rstd = 1.0f / sqrtf(all.squares / elements + task.eps);
    references[group] = reference;
    means[group] = all.mean;
    scales[group] = rstd;
    if (tile.chunk == 0) {
      task.mean[at] = reference + all.mean;
      task.rstd[at] = rstd;
    }
  });
  __syncthreads();

  for_segments<V>(tile, [&](const GroupNormSegment<V>& segment) {
    if (!segment.active) return;
    const int channel = segment.begin + segment.column;
    const auto column = task.x(tile.first_channel + channel);
    T* y = task.y + tile.first_channel + channel;
    float reference[V], offset[V], scale[V], bias[V];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int group = (channel + i) / grid.size, c = tile.first_channel + channel + i;
      reference[i] = references[group];
      offset[i] = task.added(tile.sample, c) - means[group];
      scale[i] = scales[group] * float(task.weight[c]);
      bias[i] = float(task.bias[c]);
    }
    int64_t r = segment.last(tile);
    Pack<T, V> next = load<V>(column.row(r));
    for (; r >= tile.first_row; r -= segment.lanes) {
      const Pack<T, V> pack = next;
      // The next row comes while this one is worked on.
      if (r - segment.lanes >= tile.first_row) next = load<V>(column.row(r - segment.lanes));
      float out[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float z = fmaf(pack[i] - reference[i] + offset[i], scale[i], bias[i]);
        out[i] = Silu ? z * sigmoid<T>(z) : z;
      }
      store(y + r * task.y_pitch, out);
    }
  });
}

}  // namespace

void require_group_norm(Op op, const GroupNormRows& task) {
  const Rows& x = task.x.first;
  const int64_t channels = task.x.columns();
  require(x.defined() && task.samples > 0 && x.rows > 0 && x.rows % task.samples == 0, op, "expected the rows of ",
          task.samples, " samples, got ", x.rows);
  if (task.x.second.defined()) require_rows(op, "second part", task.x.second, x.dtype, x.rows, task.x.second.columns);
  require(task.groups > 0 && channels > 0 && channels % task.groups == 0 && channels < int64_t{1} << 31, op,
          "expected ", task.groups, " groups of channels, got ", channels, " channels");
  require(task.mean.numel() == task.samples * task.groups && task.rstd.numel() == task.mean.numel(), op,
          "expected mean and rstd of ", task.samples, " samples, ", task.groups, " groups, got ", task.mean.shape(),
          " and ", task.rstd.shape());
  if (!task.added.defined()) return;
  require_rows(op, "added", task.added, task.added.dtype == DType::f32 ? DType::f32 : x.dtype, task.samples, channels);
}

void group_norm_rows(const GroupNormRows& task, float eps, const Rows& y) {
  require_group_norm("group_norm_rows", task);
  const Rows& x = task.x.first;
  const int64_t channels = task.x.columns();
  require_rows("group_norm_rows", "y", y, x.dtype, x.rows, channels);
  require(task.weight.numel() == channels && task.bias.numel() == channels, "group_norm_rows", "expected ", channels,
          " gains and biases, got ", task.weight.shape(), " and ", task.bias.shape());
  const Device device = task.weight.device();
  visit(x.dtype, [&]<class T>() {
    const auto run = [&]<int V>() {
      const GroupNormGrid grid(task.samples, x.rows / task.samples, static_cast<int>(channels), task.groups, V,
                               sizeof(T));
      const Tensor scratch = Tensor::empty({task.samples * task.groups, grid.chunks, 2}, DType::f32, device);
      Moments* moments = reinterpret_cast<Moments*>(scratch.raw());
      const GroupNormColumns<const T> columns(task.x, x.columns);
      const GroupNormAdded<T> added(task.added);
      const unsigned blocks = static_cast<unsigned>(grid.blocks);
      gather<T, V><<<blocks, threads, 0, stream(device)>>>(grid, columns, added, moments);
      check_launch();
      const Normalise<T> pass = {columns,    added,   task.weight.data<T>(),   task.bias.data<T>(),    moments, eps,
                                 data<T>(y), y.pitch, task.mean.data<float>(), task.rstd.data<float>()};
      if (task.silu)
        normalise<T, V, true><<<blocks, threads, 0, stream(device)>>>(grid, pass);
      else
        normalise<T, V, false><<<blocks, threads, 0, stream(device)>>>(grid, pass);
      check_launch();
    };
    if (in_packs(task.x) && in_packs(y))
      run.template operator()<pack_size<T>>();
    else
      run.template operator()<1>();
  });
}

void group_norm(const GroupNormTask& task, float eps, const Tensor& y) {
  group_norm_rows({.x = {rows_of(task.x), {}},
                   .samples = task.x.dim(0),
                   .groups = task.groups,
                   .silu = task.silu,
                   .weight = task.weight,
                   .bias = task.bias,
                   .mean = task.mean,
                   .rstd = task.rstd},
                  eps, rows_of(y));
}

}  // namespace flame::cuda
