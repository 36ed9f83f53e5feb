#pragma once

#include "flame/core/tensor.h"

// Norms and GEGLU for GPUs that read and write rows of wider buffers and do what comes next to them in the same
// pass. Each says the plain ops that it stands for; arithmetic is f32 throughout and rounds once, at the end. A Rows
// without data and a Tensor that is none are not read or written where "optional" is said.
namespace flame::cuda {

// `rows` rows of `columns` elements, `pitch` elements apart: what lies between columns and pitch belongs to others.
// All Rows of one call have the same floating dtype, but for what is said to be otherwise.
struct Rows {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0, columns = 0, pitch = 0;

  bool defined() const { return data != nullptr; }
  Rows part(int64_t begin, int64_t count) const {  // columns [begin, begin + count) of every row
    return {data + static_cast<size_t>(begin) * size_of(dtype), dtype, rows, count, pitch};
  }
};

Rows rows_of(const Tensor& x);  // [..., C] as rows of C; no tensor: no data

// y = layer_norm(x, weight, bias, eps). mean, rstd: f32, one a row; optional, so that y can be made again later, with
// the same bits.
void layer_norm_rows(const Rows& x, const Tensor& weight, const Tensor& bias, float eps, const Rows& y,
                     const Tensor& mean, const Tensor& rstd);

// dx = layer_norm's gradient for x, dy, plus `residual` (optional; it may be dx itself). `again` (optional) gets
// layer_norm(x, weight, bias) once more, from the kept mean and rstd; only it reads the bias.
struct LayerNormBackward {
  Rows dy, x;
  Tensor weight, bias, mean, rstd;
  Rows residual = {}, dx, again = {};
};
void layer_norm_backward_rows(const LayerNormBackward& task);

// y = geglu(x): x has 2C columns, y C.
void geglu_rows(Device device, const Rows& x, const Rows& y);
// dx = geglu's gradient for dy; `again` (optional) gets geglu(x) once more. dx may be x itself, and again dy.
void geglu_backward_rows(Device device, const Rows& dy, const Rows& x, const Rows& dx, const Rows& again = {});

// Rows whose columns lie in two buffers, as if concatenated; the second is optional.
struct SplitRows {
  Rows first, second = {};
  int64_t columns() const { return first.columns + second.columns; }
};

// group_norm(x + added, groups, weight, bias, eps), followed by silu if wanted. x holds samples * positions rows of C
// channels; `added` (optional, [samples, C], x's dtype or f32) is the same for all positions of a sample, with a
// pitch of 0 for all samples. mean and rstd
// are f32 [samples, groups].
struct GroupNormRows {
  SplitRows x;
  int64_t samples = 0;
  int groups = 0;
  bool silu = false;
  Tensor weight, bias, mean, rstd;
  Rows added = {};
  // Of x's pictures, where their pixels lie in quarters, 0 where they lie in order as y's do: first those of even rows
  // and columns, then of even rows and odd columns, of odd rows and even columns, of odd rows and columns; so leave
  // them four convolutions of a picture that stand for one of the picture at twice its size.
  int64_t quartered_width = 0;
};
void group_norm_rows(const GroupNormRows& task, float eps, const Rows& y);

// sum = x + added + residual, which is all where there is no y, and y = group_norm of that (with silu if wanted). x is
// in one part; quartered_width is the residual's here.
void add_group_norm_rows(const GroupNormRows& task, const Rows& residual, float eps, const Rows& sum,
                         const Rows& y = {});

// dx = the gradient for x, plus residual. Every output is optional, and so is each part of `residual`, which may be
// that part of dx itself. weight is read for dx and with silu, bias with silu. (The gradient of `added` is dx's sum
// over positions.)
struct GroupNormRowsGradients {
  SplitRows residual = {}, dx = {};
  Tensor dweight = {}, dbias = {};
};
void group_norm_backward_rows(const GroupNormRows& task, const Rows& dy, const GroupNormRowsGradients& out);

}  // namespace flame::cuda
