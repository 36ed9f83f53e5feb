#pragma once

#include <span>

#include "flame/ops/gemm_cuda.h"

namespace flame::cuda {

// The gradient of one factor of an adapter, which is added to what is there (f32):
//   to [columns, ranks] += scale left' right,   or with `ranks_first`
//   to [ranks, columns] += scale (right' left diag(gain) + right' 1 shift).
// left [rows, columns] begins at a multiple of 16 bytes and has a pitch in eights, right [rows, ranks] begins anywhere
// and has an even one; both are f16 or both bf16. gain and shift are f32 [columns] or null.
struct AdapterGradient {
  Matrix left, right;
  float* to = nullptr;
  bool ranks_first = false;
  float scale = 1;
  const float *gain = nullptr, *shift = nullptr;
};

// All of them, of one dtype, in one launch (a launch for each dozen). The same bits in every run, whatever else is in
// the list. What is added to may not overlap.
void add_adapter_gradients(cudaStream_t stream, std::span<const AdapterGradient> gradients);

}  // namespace flame::cuda
