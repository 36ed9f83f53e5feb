#include "flame/ops/fused_cuda.h"
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

// What is added to all positions of a sample, in T or f32, or nothing.
template <class T>
struct Added {
  const std::byte* data;
  bool wide;
  int64_t pitch;

  explicit Added(const Matrix& rows) : data(rows.data), wide(rows.dtype == DType::f32), pitch(rows.pitch) {}
  __device__ float operator()(int64_t sample, int channel) const {
    if (!data) return 0;
    const int64_t i = sample * pitch + channel;
    return wide ? reinterpret_cast<const float*>(data)[i] : float(reinterpret_cast<const T*>(data)[i]);
  }
};

// Rows in the order in which they lie.
struct InOrder {
  __device__ int64_t operator()(int64_t, int64_t row) const { return row; }
};

// Rows of pictures whose pixels lie in quarters, as GroupNormRows says.
struct InQuarters {
  int width, quarter;  // a row of pixels, pixels of a quarter

  explicit InQuarters(const GroupNormRows& task)
      : width(static_cast<int>(task.quartered_width)), quarter(static_cast<int>(task.x.rows / task.samples / 4)) {}
  // `first`: the first row of the sample.
  __device__ int64_t operator()(int64_t first, int64_t row) const {
    const int pixel = static_cast<int>(row - first), y = pixel / width, x = pixel - y * width;
    return first + (y % 2 * 2 + x % 2) * int64_t{quarter} + y / 2 * (width / 2) + x / 2;
  }
};

// moments[(sample * groups + group) * chunks + chunk], from what the columns of a segment have left in `entries`.
template <int V>
__device__ void merge_columns(const GroupNormGrid& grid, const GroupNormTile& tile, const GroupNormSegment<V>& segment,
                              const Moments* entries, Moments* moments) {
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
}

// Sums over some rows of V columns, each around one of the column's own values: no more is lost than their number
// allows, wherever that value lies.
template <class T, int V>
struct ColumnSums {
  Pack<T, V> first;
  float sum[V] = {}, squares[V] = {};

  __device__ explicit ColumnSums(const Pack<T, V>& first) : first(first) {}
  __device__ void add(const Pack<T, V>& pack) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float distance = pack[i] - first[i];
      sum[i] += distance;
      squares[i] = fmaf(distance, distance, squares[i]);
    }
  }
  // Of column i, counted from `reference`.
  __device__ Moments moments(int i, float count, float reference) const {
    const float shift = sum[i] / count, own = squares[i] - shift * sum[i];
    return {first[i] - reference + shift, own < 0 ? 0 : own};
  }
};

template <class T, int V>
__global__ void __launch_bounds__(threads, group_norm_residents)
    gather(const GroupNormGrid grid, const T* x, int64_t pitch, const Added<T> added, Moments* moments) {
  take_turn();
  __shared__ Moments entries[threads * V];
  __shared__ float reference[most_groups];
  const GroupNormTile tile(grid);
  for (int group = static_cast<int>(threadIdx.x); group < tile.groups; group += threads)
    reference[group] = float(x[tile.sample * grid.positions * pitch + tile.first_channel + group * grid.size]);
  __syncthreads();

  for_segments<V>(tile, [&](const GroupNormSegment<V>& segment) {
    if (segment.active) {
      const int channel = segment.begin + segment.column;
      const T* const column = x + tile.first_channel + channel;
      ColumnSums<T, V> sums(load<V>(column + (tile.first_row + segment.lane) * pitch));
#pragma unroll 4
      for (int64_t r = segment.lane + segment.lanes; r < tile.rows; r += segment.lanes)
        sums.add(load<V>(column + (tile.first_row + r) * pitch));
      const float count = segment.count(tile, segment.lane);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        Moments own = sums.moments(i, count, reference[(channel + i) / grid.size]);
        own.mean += added(tile.sample, tile.first_channel + channel + i);
        entries[segment.lane * segment.width + segment.column + i] = own;
      }
    }
    merge_columns(grid, tile, segment, entries, moments);
  });
}

// sum = x + added + residual, and its moments.
template <class T, class Place>
struct Residual {
  const T *x, *residual;
  int64_t x_pitch, residual_pitch;
  Added<T> added;
  Place place;  // of the residual's rows
  T* sum;
  int64_t sum_pitch;

  // An element, as it is stored.
  __device__ float operator()(const GroupNormGrid& grid, int64_t sample, int channel) const {
    const int64_t row = sample * grid.positions;
    return float(T(float(x[row * x_pitch + channel]) + float(residual[place(row, row) * residual_pitch + channel]) +
                   added(sample, channel)));
  }
};

template <class T, int V, class Place>
__global__ void __launch_bounds__(threads, group_norm_residents)
    add_and_gather(const GroupNormGrid grid, const Residual<T, Place> task, Moments* moments) {
  take_turn();
  __shared__ Moments entries[threads * V];
  __shared__ float reference[most_groups];
  const GroupNormTile tile(grid);
  const int64_t first_of_sample = tile.sample * grid.positions, end = tile.first_row + tile.rows;
  for (int group = static_cast<int>(threadIdx.x); group < tile.groups; group += threads)
    reference[group] = task(grid, tile.sample, tile.first_channel + group * grid.size);
  __syncthreads();

  for_segments<V>(tile, [&](const GroupNormSegment<V>& segment) {
    if (segment.active) {
      const int channel = segment.begin + segment.column, of_all = tile.first_channel + channel;
      float added[V];
#pragma unroll
      for (int i = 0; i < V; ++i) added[i] = task.added(tile.sample, of_all + i);
      const auto x = [&](int64_t r) { return load<V>(task.x + r * task.x_pitch + of_all); };
      const auto residual = [&](int64_t r) {
        return load<V>(task.residual + task.place(first_of_sample, r) * task.residual_pitch + of_all);
      };
      const auto add = [&](int64_t r, const Pack<T, V>& a, const Pack<T, V>& b) {
        float values[V];
#pragma unroll
        for (int i = 0; i < V; ++i) values[i] = a[i] + b[i] + added[i];
        const Pack<T, V> pack = packed<T>(values);
        store(task.sum + r * task.sum_pitch + of_all, pack);
        return pack;
      };
      int64_t r = tile.first_row + segment.lane;
      ColumnSums<T, V> sums(add(r, x(r), residual(r)));
      r += segment.lanes;
      if (r < end) {
        Pack<T, V> next_x = x(r), next_residual = residual(r);
        for (; r < end; r += segment.lanes) {
          const Pack<T, V> now_x = next_x, now_residual = next_residual;
          // The next row comes while this one is worked on.
          if (r + segment.lanes < end) next_x = x(r + segment.lanes), next_residual = residual(r + segment.lanes);
          sums.add(add(r, now_x, now_residual));
        }
      }
      const float count = segment.count(tile, segment.lane);
#pragma unroll
      for (int i = 0; i < V; ++i)
        entries[segment.lane * segment.width + segment.column + i] =
            sums.moments(i, count, reference[(channel + i) / grid.size]);
    }
    merge_columns(grid, tile, segment, entries, moments);
  });
}

template <class T>
struct Normalise {
  const T* x;
  int64_t x_pitch;
  Added<T> added;
  const T *weight, *bias;
  const Moments* moments;
  float eps;
  T* y;
  int64_t y_pitch;
  float *mean, *rstd;
};

template <class T, int V, bool Silu, class Place>
__global__ void __launch_bounds__(threads, group_norm_residents)
    normalise(const GroupNormGrid grid, const Normalise<T> task, const Place place) {
  take_turn();
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
    const float reference =
        float(task.x[tile.sample * grid.positions * task.x_pitch + tile.first_channel + group * grid.size]);
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
    const T* const column = task.x + tile.first_channel + channel;
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
    const auto x = [&](int64_t r) { return load<V>(column + place(tile.sample * grid.positions, r) * task.x_pitch); };
    int64_t r = segment.last(tile);
    Pack<T, V> next = x(r);
    for (; r >= tile.first_row; r -= segment.lanes) {
      const Pack<T, V> pack = next;
      // The next row comes while this one is worked on.
      if (r - segment.lanes >= tile.first_row) next = x(r - segment.lanes);
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

template <class T, int V>
void launch_normalise(const GroupNormGrid& grid, const GroupNormRows& rows, const Normalise<T>& task, bool quartered,
                      cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(grid.blocks);
  const auto run = [&](const auto& place) {
    using Place = std::decay_t<decltype(place)>;
    if (rows.silu)
      launch(normalise<T, V, true, Place>, {blocks, threads, 0, stream}, grid, task, place);
    else
      launch(normalise<T, V, false, Place>, {blocks, threads, 0, stream}, grid, task, place);
  };
  quartered ? run(InQuarters(rows)) : run(InOrder());
}

// Calls f<T, V>() for x's dtype, with packs or single elements.
template <class F>
void visit_rows(DType dtype, bool packs, const F& f) {
  visit(dtype, [&]<class T>() {
    if (packs)
      f.template operator()<T, pack_size<T>>();
    else
      f.template operator()<T, 1>();
  });
}

GroupNormGrid grid_of(const GroupNormRows& task, int pack) {
  const Matrix& x = task.x;
  return {task.samples,
          x.rows / task.samples,
          static_cast<int>(x.columns),
          task.groups,
          pack,
          static_cast<int>(size_of(x.dtype))};
}

Tensor moments_of(const GroupNormRows& task, const GroupNormGrid& grid) {
  return Tensor::empty({task.samples * task.groups, grid.chunks, 2}, DType::f32, task.mean.device());
}

void require_affine(Op op, const GroupNormRows& task) {
  const int64_t channels = task.x.columns;
  require(task.weight.numel() == channels && task.bias.numel() == channels, op, "expected ", channels,
          " gains and biases, got ", task.weight.shape(), " and ", task.bias.shape());
}

void require_group_norm(Op op, const GroupNormRows& task) {
  const Matrix& x = task.x;
  const int64_t channels = x.columns;
  require(x.defined() && task.samples > 0 && x.rows > 0 && x.rows % task.samples == 0, op, "expected the rows of ",
          task.samples, " samples, got ", x.rows);
  require(task.groups > 0 && channels > 0 && channels % task.groups == 0 && channels < int64_t{1} << 31, op,
          "expected ", task.groups, " groups of channels, got ", channels, " channels");
  require(task.mean.numel() == task.samples * task.groups && task.rstd.numel() == task.mean.numel(), op,
          "expected mean and rstd of ", task.samples, " samples, ", task.groups, " groups, got ", task.mean.shape(),
          " and ", task.rstd.shape());
  const int64_t positions = x.rows / task.samples, width = task.quartered_width;
  require(width == 0 || (width > 0 && width % 2 == 0 && positions % (2 * width) == 0 && positions < int64_t{1} << 31),
          op, "expected pictures of an even width and height, got ", positions, " pixels in rows of ", width);
  Matrix added = task.added;
  if (!added.defined()) return;
  if (added.pitch == 0) added.pitch = channels;
  require_rows(op, "added", added, added.dtype == DType::f32 ? DType::f32 : x.dtype, task.samples, channels);
}

}  // namespace

void group_norm_rows(const GroupNormRows& task, float eps, const Matrix& y) {
  constexpr const char* op = "group_norm_rows";
  require_group_norm(op, task);
  require_affine(op, task);
  const Matrix& x = task.x;
  require_rows(op, "y", y, x.dtype, x.rows, x.columns);
  const cudaStream_t on = stream(task.mean.device());
  visit_rows(x.dtype, in_packs(x) && in_packs(y), [&]<class T, int V>() {
    const GroupNormGrid grid = grid_of(task, V);
    const Tensor scratch = moments_of(task, grid);
    Moments* moments = reinterpret_cast<Moments*>(scratch.raw());
    const Added<T> added(task.added);
    launch(gather<T, V>, {static_cast<unsigned>(grid.blocks), threads, 0, on}, grid, data<T>(x), x.pitch, added,
           moments);
    const Normalise<T> pass = {
        data<T>(x), x.pitch,    added,   task.weight.data<T>(),   task.bias.data<T>(),    moments,
        eps,        data<T>(y), y.pitch, task.mean.data<float>(), task.rstd.data<float>()};
    launch_normalise<T, V>(grid, task, pass, task.quartered_width > 0, on);
  });
}

void add_group_norm_rows(const GroupNormRows& task, const Matrix& residual, float eps, const Matrix& sum,
                         const Matrix& y) {
  constexpr const char* op = "add_group_norm_rows";
  require_group_norm(op, task);
  const Matrix& x = task.x;
  for (const auto& [name, rows] : {std::pair{"residual", residual}, {"sum", sum}})
    require_rows(op, name, rows, x.dtype, x.rows, x.columns);
  require_rows(op, "y", y, x.dtype, x.rows, x.columns, true);
  require(sum.data != x.data && sum.data != residual.data, op, "sum must be a place of its own");
  if (y.defined()) require_affine(op, task);
  const cudaStream_t on = stream(task.mean.device());
  visit_rows(x.dtype, in_packs(x) && in_packs(residual) && in_packs(sum) && in_packs(y), [&]<class T, int V>() {
    const GroupNormGrid grid = grid_of(task, V);
    const Tensor scratch = moments_of(task, grid);
    Moments* moments = reinterpret_cast<Moments*>(scratch.raw());
    const auto run = [&](const auto& place) {
      using Place = std::decay_t<decltype(place)>;
      const Residual<T, Place> pass = {data<T>(x), data<T>(residual), x.pitch,  residual.pitch, Added<T>(task.added),
                                       place,      data<T>(sum),      sum.pitch};
      launch(add_and_gather<T, V, Place>, {static_cast<unsigned>(grid.blocks), threads, 0, on}, grid, pass, moments);
    };
    task.quartered_width > 0 ? run(InQuarters(task)) : run(InOrder());
    if (!y.defined()) return;
    const Normalise<T> pass = {
        data<T>(sum), sum.pitch, Added<T>(Matrix()),      task.weight.data<T>(),  task.bias.data<T>(), moments, eps,
        data<T>(y),   y.pitch,   task.mean.data<float>(), task.rstd.data<float>()};
    launch_normalise<T, V>(grid, task, pass, false, on);
  });
}

void group_norm(const GroupNormTask& task, float eps, const Tensor& y) {
  group_norm_rows({.x = rows_of(task.x),
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
