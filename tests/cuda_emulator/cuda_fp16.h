#pragma once

#include "cuda_runtime.h"

struct alignas(4) __half2 {
  _Float16 x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {static_cast<_Float16>(x), static_cast<_Float16>(y)}; }
