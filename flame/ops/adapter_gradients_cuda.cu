#include "flame/core/error.h"
#include "flame/device/launch_cuda.h"
#include "flame/ops/adapter_gradients_cuda.h"
#include "flame/ops/tensor_core_cuda.h"

// A block takes 64 columns of one gradient's left side, all rows, and one or more tiles of 16 ranks; its warps take 16
// rows at a time in turn and are added up at the end. Nothing is read twice, so nothing passes through shared memory:
// a lane (g, t) reads eight neighbouring columns, and two neighbouring ranks of each tile, of four rows, which are the
// tensor cores' factors once rows are paired (they may order rows, columns and ranks as they like, if both sides
// agree):
//   rows 4t .. 4t + 3, columns 8g .. 8g + 7, ranks 2g and 2g + 1;
// and of the products it then holds columns 8g .. 8g + 7 and, of each tile, ranks 4t .. 4t + 3.
namespace flame::cuda {
namespace {

constexpr Op op = "adapters' gradients";
constexpr int warps = 8, strip = 64, tile = 16, most_tiles = 4, most_tasks = 12;

struct Task {
  const uint16_t *left, *right;  // right begins at a multiple of four bytes: `skipped` ranks early
  float* to;
  const float *gain, *shift;
  int left_pitch, right_pitch;
  int rows, columns, ranks, skipped;
  int strips, first_block;
  float scale;
  bool ranks_first, in_fours;
};

struct Tasks {
  Task tasks[most_tasks];
  int count;
};

struct Lane {
  int warp = threadIdx.x / 32, id = threadIdx.x % 32, g = id / 4, t = id % 4;
};

// What a lane reads of 16 rows; a word is two neighbours.
template <int tiles>
struct Slice {
  uint32_t left[4][4], right[4][tiles];
};

template <int tiles>
struct Reader {
  const uint16_t *left, *right;
  int left_pitch, right_pitch;
  int left_rows, right_rows[tiles];  // still to come; none where the lane's columns or ranks are beyond the end

  __device__ Reader(const Task& task, int first_column, int first_rank, const Lane& lane)
      : left_pitch(task.left_pitch), right_pitch(task.right_pitch) {
    const int row = lane.warp * 16 + 4 * lane.t, column = first_column + 8 * lane.g, rank = first_rank + 2 * lane.g;
    left = task.left + int64_t{row} * left_pitch + column;
    right = task.right + int64_t{row} * right_pitch + rank;
    left_rows = column < task.columns ? task.rows - row : 0;
#pragma unroll
    for (int j = 0; j < tiles; ++j) right_rows[j] = rank + j * tile < task.skipped + task.ranks ? task.rows - row : 0;
  }

  // The next 16 rows that are the warp's; zeros where there are none.
  __device__ Slice<tiles> next() {
    Slice<tiles> slice;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint4 columns = {0, 0, 0, 0};
      if (i < left_rows) columns = *reinterpret_cast<const uint4*>(left + int64_t{i} * left_pitch);
      slice.left[i][0] = columns.x, slice.left[i][1] = columns.y;
      slice.left[i][2] = columns.z, slice.left[i][3] = columns.w;
      const auto* ranks = reinterpret_cast<const uint32_t*>(right + int64_t{i} * right_pitch);
#pragma unroll
      for (int j = 0; j < tiles; ++j) slice.right[i][j] = i < right_rows[j] ? ranks[j * (tile / 2)] : 0;
    }
    left += int64_t{warps * 16} * left_pitch;
    right += int64_t{warps * 16} * right_pitch;
    left_rows -= warps * 16;
#pragma unroll
    for (int j = 0; j < tiles; ++j) right_rows[j] -= warps * 16;
    return slice;
  }
};

// The first (or second) halves of two words.
__device__ uint32_t halves(uint32_t a, uint32_t b, int which) { return __byte_perm(a, b, which ? 0x7632 : 0x5410); }

// Sums of 16 ranks, as mma leaves them for the even and the odd ranks and for each word of columns.
struct Sums {
  float products[2][4][4] = {}, rights[2][4] = {};

  __device__ float product(int column, int rank) const {
    return products[rank % 2][column / 2][column % 2 * 2 + rank / 2];
  }
  __device__ float right(int rank) const { return rights[rank % 2][rank / 2]; }
};

template <class T, int tiles>
__device__ void add(Sums (&sums)[tiles], const Slice<tiles>& slice, bool shifted) {
  uint32_t b[tiles][2][2];  // [][even or odd rank][rows 0 and 1 or 2 and 3]
#pragma unroll
  for (int j = 0; j < tiles; ++j)
#pragma unroll
    for (int k = 0; k < 4; ++k)
      b[j][k / 2][k % 2] = halves(slice.right[k % 2 * 2][j], slice.right[k % 2 * 2 + 1][j], k / 2);
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    uint32_t a[4];  // even and odd columns of rows 0 and 1, then of rows 2 and 3
#pragma unroll
    for (int k = 0; k < 4; ++k) a[k] = halves(slice.left[k / 2 * 2][word], slice.left[k / 2 * 2 + 1][word], k % 2);
#pragma unroll
    for (int j = 0; j < tiles; ++j)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) mma<T>(sums[j].products[odd][word], a, b[j][odd][0], b[j][odd][1]);
  }
  if (!shifted) return;
  const uint32_t one = pack<T>(1, 1), ones[4] = {one, one, one, one};
#pragma unroll
  for (int j = 0; j < tiles; ++j)
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) mma<T>(sums[j].rights[odd], ones, b[j][odd][0], b[j][odd][1]);
}

// What a block's warps add up: [warp][piece of four numbers][lane], and the right side's own sums.
struct Shared {
  float4 pieces[warps][8][32];
  float rights[warps][tile];
};

// Pieces go along the gradient's rows: along ranks, one for each column; or along columns, two for each rank.
__device__ void put(Shared& shared, const Sums& sums, bool ranks_first, const Lane& lane) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int c = i % 2 * 4, r = i / 2;
    shared.pieces[lane.warp][i][lane.id] =
        ranks_first ? float4{sums.product(c, r), sums.product(c + 1, r), sums.product(c + 2, r), sums.product(c + 3, r)}
                    : float4{sums.product(i, 0), sums.product(i, 1), sums.product(i, 2), sums.product(i, 3)};
  }
  if (lane.g == 0)
#pragma unroll
    for (int r = 0; r < 4; ++r) shared.rights[lane.warp][4 * lane.t + r] = sums.right(r);
}

// Four neighbours of a gradient, as far as they are in it. The warp's number is that of the piece.
struct Place {
  int column, rank;  // the first one's
  int begin, end;
  float* at;
  bool whole;

  __device__ Place(const Task& task, int first_column, int first_rank, const Lane& lane) {
    const bool ranks_first = task.ranks_first;
    column = first_column + 8 * lane.g + (ranks_first ? lane.warp % 2 * 4 : lane.warp);
    rank = first_rank - task.skipped + 4 * lane.t + (ranks_first ? lane.warp / 2 : 0);
    const int row = ranks_first ? rank : column, inner = ranks_first ? column : rank;
    const int rows = ranks_first ? task.ranks : task.columns, width = ranks_first ? task.columns : task.ranks;
    begin = max(0, -inner);
    end = row >= 0 && row < rows ? min(4, width - inner) : 0;
    at = task.to + static_cast<int64_t>(row) * width + inner;
    whole = task.in_fours && end == 4;
  }
};

__device__ void add_to(const Place& place, float4 before, const float (&sum)[4]) {
  if (place.whole) {
    *reinterpret_cast<float4*>(place.at) = {before.x + sum[0], before.y + sum[1], before.z + sum[2], before.w + sum[3]};
    return;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k)
    if (k >= place.begin && k < place.end) place.at[k] += sum[k];
}

// Adds up one piece of all warps, in their order, and adds it to the gradient.
__device__ void finish(const Task& task, const Shared& shared, const Place& place, float4 before, const Lane& lane) {
  float sum[4] = {};
#pragma unroll
  for (int w = 0; w < warps; ++w) {
    const float4 piece = shared.pieces[w][lane.warp][lane.id];
    sum[0] += piece.x, sum[1] += piece.y, sum[2] += piece.z, sum[3] += piece.w;
  }
  float right = 0;
  if (task.shift)
#pragma unroll
    for (int w = 0; w < warps; ++w) right += shared.rights[w][4 * lane.t + lane.warp / 2];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (task.gain && k < place.end) sum[k] *= task.gain[place.column + k];
    if (task.shift && k < place.end) sum[k] += right * task.shift[place.column + k];
    sum[k] *= task.scale;
  }
  add_to(place, before, sum);
}

template <class T, int tiles>
__global__ void __launch_bounds__(32 * warps, tiles <= 1 ? 2 : 1)
    gradients_kernel(const __grid_constant__ Tasks tasks) {
  take_turn();
  __shared__ Shared shared;
  int index = 0;
  while (index + 1 < tasks.count && static_cast<int>(blockIdx.x) >= tasks.tasks[index + 1].first_block) ++index;
  const Task& task = tasks.tasks[index];
  const int block = blockIdx.x - task.first_block;
  const int first_column = block % task.strips * strip, first_rank = block / task.strips * tiles * tile;
  const Lane lane;

  Reader<tiles> reader(task, first_column, first_rank, lane);
  const bool shifted = task.shift;
  Sums sums[tiles];
  constexpr int ahead = tiles < most_tiles ? 2 : 1;  // slices on their way, as far as there are registers for them
  Slice<tiles> slices[ahead];
#pragma unroll
  for (int i = 0; i < ahead; ++i) slices[i] = reader.next();
#pragma unroll 1
  for (int row = lane.warp * 16; row < task.rows; row += ahead * warps * 16) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      add<T, tiles>(sums, slices[i], shifted);
      slices[i] = reader.next();
    }
  }

#pragma unroll
  for (int j = 0; j < tiles; ++j) {
    if (j) __syncthreads();
    put(shared, sums[j], task.ranks_first, lane);
    const Place place(task, first_column, first_rank + j * tile, lane);
    const float4 before = place.whole ? *reinterpret_cast<const float4*>(place.at) : float4{};
    __syncthreads();
    finish(task, shared, place, before, lane);
  }
}

int divide_up(int a, int b) { return (a + b - 1) / b; }

// How many of the 32 bits that right's words begin at belong to the rank before.
int skipped(const AdapterGradient& gradient) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(gradient.right.data) % 4 / 2);
}

int tiles_of(const AdapterGradient& gradient) {
  return divide_up(skipped(gradient) + static_cast<int>(gradient.right.columns), tile);
}

Task task_of(const AdapterGradient& gradient, int first_block) {
  const auto& [left, right, to, ranks_first, scale, gain, shift] = gradient;
  require(left.rows == right.rows, op, "expected as many rows on both sides, got ", left.rows, " and ", right.rows);
  require(left.dtype == right.dtype && size_of(left.dtype) == 2 && is_floating(left.dtype), op,
          "expected f16 or bf16 on both sides, got ", left.dtype, " and ", right.dtype);
  require(reinterpret_cast<uintptr_t>(left.data) % 16 == 0 && left.pitch % 8 == 0 && right.pitch % 2 == 0, op,
          "expected rows aligned to 16 bytes, got ", static_cast<const void*>(left.data), " with a pitch of ",
          left.pitch, ", and an even pitch, got ", right.pitch);
  require(ranks_first || (!gain && !shift), op, "expected gain and shift only where ranks come first");
  const int columns = static_cast<int>(left.columns), ranks = static_cast<int>(right.columns);
  const int before = skipped(gradient), width = ranks_first ? columns : ranks;
  return {.left = reinterpret_cast<const uint16_t*>(left.data),
          .right = reinterpret_cast<const uint16_t*>(right.data) - before,
          .to = to,
          .gain = gain,
          .shift = shift,
          .left_pitch = static_cast<int>(left.pitch),
          .right_pitch = static_cast<int>(right.pitch),
          .rows = static_cast<int>(left.rows),
          .columns = columns,
          .ranks = ranks,
          .skipped = before,
          .strips = divide_up(columns, strip),
          .first_block = first_block,
          .scale = scale,
          .ranks_first = ranks_first,
          .in_fours = reinterpret_cast<uintptr_t>(to) % 16 == 0 && width % 4 == 0 && (ranks_first || before == 0)};
}

template <class T>
void run(cudaStream_t stream, const Tasks& tasks, int tiles, int blocks) {
  const auto kernel = tiles == 1   ? gradients_kernel<T, 1>
                      : tiles == 2 ? gradients_kernel<T, 2>
                      : tiles == 3 ? gradients_kernel<T, 3>
                                   : gradients_kernel<T, most_tiles>;
  launch(kernel, {static_cast<unsigned>(blocks), 32 * warps, 0, stream}, tasks);
}

}  // namespace

void add_adapter_gradients(cudaStream_t stream, std::span<const AdapterGradient> gradients) {
  for (; gradients.size() > most_tasks; gradients = gradients.subspan(most_tasks))
    add_adapter_gradients(stream, gradients.first(most_tasks));
  int tiles = 1;
  for (const AdapterGradient& gradient : gradients) tiles = std::max(tiles, tiles_of(gradient));
  tiles = std::min(tiles, most_tiles);
  Tasks tasks = {};
  int blocks = 0;
  for (const AdapterGradient& gradient : gradients) {
    require(gradient.left.dtype == gradients[0].left.dtype, op, "expected one dtype, got ", gradients[0].left.dtype,
            " and ", gradient.left.dtype);
    if (gradient.left.columns == 0 || gradient.right.columns == 0) continue;
    const Task& task = tasks.tasks[tasks.count++] = task_of(gradient, blocks);
    blocks += task.strips * divide_up(tiles_of(gradient), tiles);
  }
  if (blocks == 0) return;
  gradients[0].left.dtype == DType::f16 ? run<f16>(stream, tasks, tiles, blocks)
                                        : run<bf16>(stream, tasks, tiles, blocks);
}

}  // namespace flame::cuda
