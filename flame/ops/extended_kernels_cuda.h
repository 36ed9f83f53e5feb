#pragma once

#include "flame/device/cuda.h"
#include "flame/ops/gemm_cuda.h"

// The small kernels around ExtendedLinear (flame/nn/extended_linear_cuda.h).
namespace flame::cuda {

// x_hat = (x - mean) / sqrt(variance + eps) of each row, without gain and bias; rstd [rows] f32. x and x_hat have the
// same number of columns, a multiple of 8 and at most 2048, and pitches that are multiples of 8.
void normalize_rows(Device device, const Matrix& x, float eps, const Matrix& x_hat, float* rstd);
// dx = residual + the gradient through normalize_rows of g.
void normalize_rows_gradient(Device device, const Matrix& g, const Matrix& x_hat, const float* rstd,
                             const Matrix& residual, const Matrix& dx);

// One adapter's place in an extended matrix. With gain and shift (of a LayerNorm before the layer, f32 [in]) the layer
// sees x_hat: A becomes A diag(gain), and A shift is a constant that is added to its product.
struct AdapterPlace {
  const float *down, *up;     // the masters: [rank, in], [out, rank]
  const float *gain, *shift;  // or null
  void *a, *b, *constants;    // where A's first row, s B's first column and A shift go
  int64_t in, out, rank, pitch_a, pitch_b;
  float scale;
};

// Writes the masters of many adapters into their matrices. `places` is in the device's memory.
void refresh_adapters(Device device, const AdapterPlace* places, int count, int64_t most_rows, DType dtype);

// to[j, i] += scale from[j, i], where `from` begins at that element of the sums.
struct GradientPart {
  int64_t from = 0;
  int64_t from_pitch = 0;
  float scale = 1;
  float* to = nullptr;
  int64_t rows = 0, columns = 0;
  friend bool operator==(const GradientPart&, const GradientPart&) = default;
};
void add_gradients(cudaStream_t stream, const float* sums, const GradientPart* parts_on_device, int count,
                   int64_t most_rows);

// Puts a frozen layer's weight [out, in] into rows of an extended matrix of the same dtype: W, or W diag(gain).
void place_weight(Device device, const Tensor& weight, const float* gain, const Matrix& rows);
// to[o pitch] = b + W shift for each o; bias and shift may be none and null.
void place_bias(Device device, const Tensor& weight, const Tensor& bias, const float* shift, std::byte* to,
                int64_t pitch);

// Makes every row of `to`, of a multiple of 64 columns, this one, in f16 or bf16.
void fill_rows(cudaStream_t stream, const Tensor& row, const Matrix& to);
// Copies rows between pitches, where neither is in the other.
void copy_rows(cudaStream_t stream, const Matrix& from, const Matrix& to);

}  // namespace flame::cuda
