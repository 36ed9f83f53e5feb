#pragma once

#include "flame/ops/rows_cuda.h"

// How group norm's kernels, forward and backward, share out their work. A sample is cut into slices of whole groups of
// channels, and these into chunks of positions: one block each. A first pass leaves a pair of sums of each chunk's
// groups; every block of the second pass puts its groups' pairs together, always in the same order, and goes through
// its rows backwards: those that the first pass read last are still in the cache. Only .cu files of the CUDA build
// include it.
namespace flame::cuda {

inline constexpr int group_norm_threads = 256;
inline constexpr int group_norm_residents = 3;  // blocks of a multiprocessor
inline constexpr int most_groups = 64;          // of a slice

struct GroupNormGrid {
  int64_t positions, chunk_positions;  // of a sample, of a chunk
  int channels, groups, size;          // size: channels of a group
  int slice_groups, slices, chunks;
  int64_t blocks;

  // `pack`: neighbouring elements that a thread takes; `bytes` of an element.
  GroupNormGrid(int64_t samples, int64_t positions, int channels, int groups, int pack, int bytes)
      : positions(positions), channels(channels), groups(groups), size(channels / groups) {
    // Slices begin at whole packs and, where that is possible, at sectors of 32 bytes; below 128 bytes a row is too
    // short to be read well.
    const int64_t unit = std::lcm(int64_t{size}, int64_t{pack}), least = 128;
    int64_t width = unit;
    while (width * bytes < least || (pack > 1 && width * bytes % 32 != 0)) width += unit;
    slice_groups = static_cast<int>(std::min<int64_t>(groups, width / size));
    slices = (groups + slice_groups - 1) / slice_groups;
    // The number of blocks does not depend on the card, so that the results do not.
    constexpr int64_t wanted = group_norm_residents * 132, worth_a_block = 16 * group_norm_threads;
    const int64_t most = std::max<int64_t>(1, positions * slice_groups * size / worth_a_block);
    const int64_t split = std::clamp<int64_t>(wanted / (samples * slices), 1, most);
    chunk_positions = (positions + split - 1) / split;
    chunks = static_cast<int>((positions + chunk_positions - 1) / chunk_positions);
    blocks = samples * slices * chunks;
  }
};

// What one block works on.
struct GroupNormTile {
  int64_t sample, first_row, rows;  // rows of the whole input: sample * positions + position
  int chunk, first_group, groups, first_channel, channels;

  __device__ explicit GroupNormTile(const GroupNormGrid& grid) {
    const int slice = static_cast<int>(blockIdx.x) % grid.slices, rest = static_cast<int>(blockIdx.x) / grid.slices;
    chunk = rest % grid.chunks;
    sample = rest / grid.chunks;
    const int64_t position = chunk * grid.chunk_positions;
    first_row = sample * grid.positions + position;
    rows = min(grid.chunk_positions, grid.positions - position);
    first_group = slice * grid.slice_groups;
    groups = min(grid.slice_groups, grid.groups - first_group);
    first_channel = first_group * grid.size;
    channels = groups * grid.size;
  }
};

// A slice wider than a block's threads is gone through in segments; in each, a thread has V columns and every
// `lanes`-th row.
template <int V>
struct GroupNormSegment {
  int begin, width;  // channels within the slice
  int lanes, lane, column;
  bool active;

  __device__ GroupNormSegment(const GroupNormTile& tile, int begin) : begin(begin) {
    const int thread = static_cast<int>(threadIdx.x);
    const int columns = min(tile.channels / V, group_norm_threads);
    width = min(columns * V, tile.channels - begin);
    lanes = group_norm_threads / columns;
    lane = thread / columns;
    column = thread % columns * V;
    active = lane < lanes && lane < tile.rows && column < width;
  }
  // The channels of a group of the slice that lie in this segment, counted from its beginning.
  __device__ int from(int group, int size) const { return max(0, group * size - begin); }
  __device__ int to(int group, int size) const { return min(width, (group + 1) * size - begin); }
  __device__ int filled(const GroupNormTile& tile) const {
    return static_cast<int>(min(static_cast<int64_t>(lanes), tile.rows));
  }
  __device__ int64_t last(const GroupNormTile& tile) const {  // row of this lane
    return tile.first_row + lane + (tile.rows - 1 - lane) / lanes * lanes;
  }
  __device__ float count(const GroupNormTile& tile, int lane) const {  // rows of a lane
    return static_cast<float>((tile.rows - lane + lanes - 1) / lanes);
  }
};

// f(segment) for all segments of a tile.
template <int V, class F>
__device__ void for_segments(const GroupNormTile& tile, const F& f) {
  for (int begin = 0; begin < tile.channels; begin += group_norm_threads * V) f(GroupNormSegment<V>(tile, begin));
}

// f(group) for the groups of a tile, each by a warp of its own.
template <class F>
__device__ void for_groups(const GroupNormTile& tile, const F& f) {
  for (int group = static_cast<int>(threadIdx.x) / 32; group < tile.groups; group += group_norm_threads / 32) f(group);
}

}  // namespace flame::cuda
