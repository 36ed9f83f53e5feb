#pragma once

#include "flame/optim/adamw.h"
#include "flame/optim/optimizer_kernels.h"

namespace flame {

// bitsandbytes' dynamic map: 256 values in [-1, 1] (or [0, 1]), rising, closer together towards 0.
std::vector<float> dynamic_map(bool with_sign);

constexpr int64_t block_8bit = 256;   // values that share a largest one
constexpr int64_t least_8bit = 4096;  // parameters with fewer values keep their averages in f32

// A part of a parameter, of block_8bit values or fewer.
struct Block8Bit {
  int64_t begin, count;  // in the flat buffers
  int64_t wide;          // where its averages in f32 are; -1: they have 8 bits
};

// One group's blocks: i64 [blocks, 3], by their bits; the others are whole buffers.
struct AdamW8BitBuffers {
  Tensor values, gradients, copy;
  Tensor blocks, maps;        // maps: f32 [2, 256], of exp_avg and of exp_avg_sq
  Tensor codes1, codes2;      // u8, shaped like the values
  Tensor largest1, largest2;  // f32, one of these blocks
  Tensor wide1, wide2;        // f32
};

// The code of the value in `map` that is nearest to x. What is below 0 stays there, as in bitsandbytes' CUDA kernel.
FLAME_SCALAR uint8_t nearest_code(const float* map, float x) {
  int low = 0, high = 255;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (map[middle] <= x ? low : high) = middle;
  }
  const int nearest = map[high] - x < x - map[low] ? high : low;
  return static_cast<uint8_t>(x < 0 && map[nearest] >= 0 ? nearest - 1 : nearest);
}

}  // namespace flame

namespace flame::cpu {
void adamw_8bit(const AdamW8BitBuffers& buffers, const AdamWOptions& options, double lr, double decay,
                const Tensor& state);
}
namespace flame::cuda {
void adamw_8bit(const AdamW8BitBuffers& buffers, const AdamWOptions& options, double lr, double decay,
                const Tensor& state);
}
