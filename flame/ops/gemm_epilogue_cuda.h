#pragma once

#include "flame/ops/gemm_cuda.h"

namespace flame::cuda {

// out = sum + beta c + bias, for what the library does not take: sum [batch, rows, columns] in f32 or null (0), c of
// out's dtype or out itself, bias [columns] in out's dtype or null.
void finish_product(Device device, cudaStream_t stream, const float* sum, float beta, const Matrix& c,
                    const std::byte* bias, const Matrix& out);

}  // namespace flame::cuda
