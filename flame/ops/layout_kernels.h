#pragma once

#include "flame/core/tensor.h"

namespace flame {

// `count` runs of `length` elements, from one tensor to another: where they begin and how far apart they are.
struct Runs {
  int64_t count, length;
  int64_t from = 0, from_stride = 0, to = 0, to_stride = 0;
};

}  // namespace flame

namespace flame::cpu {
void copy_runs(const Tensor& from, const Tensor& to, const Runs& runs);
void fill_runs(const Tensor& to, const Runs& runs, double value);
void permute(const Tensor& x, const Tensor& y, const std::vector<int>& axes);
void upsample(const Tensor& x, const Tensor& y);       // [N, H, W, C] -> [N, 2H, 2W, C]
void sum_squares(const Tensor& dy, const Tensor& dx);  // of 2 x 2 pixels: upsample's gradient
void cast(const Tensor& x, const Tensor& y);
void gather_rows(const Tensor& table, const Tensor& ids, const Tensor& y);
void scatter_rows(const Tensor& dy, const Tensor& ids, const Tensor& table);  // table f32; added in the order of ids
}  // namespace flame::cpu

namespace flame::cuda {
void copy_runs(const Tensor& from, const Tensor& to, const Runs& runs);
void fill_runs(const Tensor& to, const Runs& runs, double value);
void permute(const Tensor& x, const Tensor& y, const std::vector<int>& axes);
void upsample(const Tensor& x, const Tensor& y);
void sum_squares(const Tensor& dy, const Tensor& dx);
void cast(const Tensor& x, const Tensor& y);
void gather_rows(const Tensor& table, const Tensor& ids, const Tensor& y);
void scatter_rows(const Tensor& dy, const Tensor& ids, const Tensor& table);
}  // namespace flame::cuda
