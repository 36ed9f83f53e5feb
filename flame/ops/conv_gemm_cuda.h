#pragma once

#include "flame/ops/conv_kernels.h"

// Convolutions as matrix products over rows of pixels' neighbourhoods: exact in f32, for any extents and dtype.
namespace flame::cuda {

void conv2d_by_gemm(const Convolution& conv, const Tensor& x, const Tensor& weight, const Tensor& bias,
                    const Tensor& y);
void conv2d_input_gradient_by_gemm(const Convolution& conv, const Tensor& dy, const Tensor& weight, const Tensor& dx);
void conv2d_weight_gradient_by_gemm(const Convolution& conv, const Tensor& x, const Tensor& dy, const Tensor& dw);

// Writes the matrix `from` into the matrix `to` of the same dtype, the last axis being the columns: what is beyond the
// smaller one is cut off, or zero.
void fit_matrix(const Tensor& from, const Tensor& to);

}  // namespace flame::cuda
