#pragma once

#include "flame/core/tensor.h"
#include "flame/device/cuda.h"

// Matrix products of cuBLASLt for code that knows where its matrices lie; ops use flame/ops/gemm.h.
namespace flame::cuda {

// Row-major matrices as they lie in memory, counted in elements: the next row begins `pitch` further on, the next
// matrix of a batch `batch_stride` (0: it is the same one).
struct Matrix {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0, columns = 0, pitch = 0;
  int64_t batch = 1, batch_stride = 0;

  bool defined() const { return data != nullptr; }
  Matrix part(int64_t begin, int64_t count) const {  // columns [begin, begin + count) of every row
    Matrix result = *this;
    result.data += static_cast<size_t>(begin) * size_of(dtype);
    result.columns = count;
    return result;
  }
};

Matrix matrix(const Tensor& x);  // [..., rows, columns]; the leading extents as one batch
Matrix matrix(const Tensor& x, int64_t rows, int64_t columns);  // all of x as one matrix of that shape
Matrix rows_of(const Tensor& x);                                // [..., columns] as rows; no tensor: not defined

struct Epilogue {
  float alpha = 1;
  float beta = 0;                    // of what out holds; 0: out is only written
  const Matrix* residual = nullptr;  // added in the place of beta out: of out's shape and dtype
  const std::byte* bias = nullptr;   // [columns of out], added to each row, in out's dtype
};

// out = alpha a b + beta out + bias, with a and b transposed where ta and tb say so. a and b have one floating
// dtype, out has that or f32; sums are f32, but some kernels round to out's dtype before they add beta out or the
// bias. A batch of one is used for all of out's. Anything may be empty. Which of the library's algorithms is used is
// searched for when a form of product is first met, and stays; ERI_GEMM_SEARCH=off takes the library's guess. Throws
// Error where shapes or dtypes do not fit.
void product(Device device, cudaStream_t stream, const Matrix& a, bool ta, const Matrix& b, bool tb, const Matrix& out,
             const Epilogue& epilogue = {});

}  // namespace flame::cuda
