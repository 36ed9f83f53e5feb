#pragma once

#include "flame/ops/gemm_cuda.h"

// Group norm and GEGLU for GPUs that read and write rows of wider buffers and do what comes next to them in the same
// pass. Each says the plain ops that it stands for; arithmetic is f32 throughout and rounds once, at the end. All
// matrices of one call are one each, not a batch, and have the same floating dtype, but for what is said to be
// otherwise. One that is not defined is not read or written where "optional" is said.
namespace flame::cuda {

// y = geglu(x): x has 2C columns, y C.
void geglu_rows(Device device, const Matrix& x, const Matrix& y);
// dx = geglu's gradient for dy; `again` (optional) gets geglu(x) once more. dx may be x itself, and again dy.
void geglu_backward_rows(Device device, const Matrix& dy, const Matrix& x, const Matrix& dx, const Matrix& again = {});

// group_norm(x + added, groups, weight, bias, eps), followed by silu if wanted. x holds samples * positions rows of C
// channels; `added` (optional, [samples, C], x's dtype or f32) is the same for all positions of a sample, with a
// pitch of 0 for all samples. mean and rstd are f32 [samples, groups].
struct GroupNormRows {
  Matrix x;
  int64_t samples = 0;
  int groups = 0;
  bool silu = false;
  Tensor weight, bias, mean, rstd;
  Matrix added = {};
  // Of x's pictures, where their pixels lie in quarters, 0 where they lie in order as y's do: first those of even rows
  // and columns, then of even rows and odd columns, of odd rows and even columns, of odd rows and columns; so leave
  // them four convolutions of a picture that stand for one of the picture at twice its size.
  int64_t quartered_width = 0;
};
void group_norm_rows(const GroupNormRows& task, float eps, const Matrix& y);

// sum = x + added + residual, which is all where there is no y, and y = group_norm of that (with silu if wanted).
// quartered_width is the residual's here.
void add_group_norm_rows(const GroupNormRows& task, const Matrix& residual, float eps, const Matrix& sum,
                         const Matrix& y = {});

}  // namespace flame::cuda
