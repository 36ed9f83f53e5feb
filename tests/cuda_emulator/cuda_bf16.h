#pragma once

#include <bit>

#include "cuda_runtime.h"

struct alignas(4) __nv_bfloat162 {
  uint16_t x, y;
};
inline uint16_t __bfloat16_bits(float value) {  // to nearest even
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const bool nan = (u & 0x7FFFFFFF) > 0x7F800000;
  return static_cast<uint16_t>(nan ? u >> 16 | 0x40 : (u + 0x7FFF + (u >> 16 & 1)) >> 16);
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__bfloat16_bits(x), __bfloat16_bits(y)}; }
