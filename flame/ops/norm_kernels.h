#pragma once

#include "flame/core/tensor.h"

namespace flame {

// What group_norm and its gradient share. x is [N, ..., C]; mean and rstd (1 / standard deviation) are f32 [N, groups].
struct GroupNormTask {
  Tensor x, weight, bias, mean, rstd;
  int groups;
  bool silu;  // followed by silu
};

// Gradients that nobody wants are no tensors.
struct NormGradients {
  Tensor dx, dweight, dbias;
};

}  // namespace flame

namespace flame::cpu {
// mean and rstd are f32, one a row.
void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, const Tensor& y,
                const Tensor& mean, const Tensor& rstd);
void layer_norm_dx(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                   const Tensor& dx);
// dy times the normalised x, f32: its sum over rows is the gradient of the gain.
void layer_norm_products(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& out);
// rrms is f32, one a row: 1 / sqrt(mean(x^2) + eps).
void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y, const Tensor& rrms);
void rms_norm_dx(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rrms, const Tensor& dx);
void rms_norm_products(const Tensor& dy, const Tensor& x, const Tensor& rrms, const Tensor& out);
void group_norm(const GroupNormTask& task, float eps, const Tensor& y);
void group_norm_backward(const GroupNormTask& task, const Tensor& dy, const NormGradients& gradients);
void geglu(const Tensor& x, const Tensor& y);
void geglu_dx(const Tensor& dy, const Tensor& x, const Tensor& dx);
}  // namespace flame::cpu

namespace flame::cuda {
void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, const Tensor& y,
                const Tensor& mean, const Tensor& rstd);
void layer_norm_dx(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                   const Tensor& dx);
void layer_norm_products(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& out);
void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y, const Tensor& rrms);
void rms_norm_dx(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rrms, const Tensor& dx);
void rms_norm_products(const Tensor& dy, const Tensor& x, const Tensor& rrms, const Tensor& out);
void group_norm(const GroupNormTask& task, float eps, const Tensor& y);
void group_norm_backward(const GroupNormTask& task, const Tensor& dy, const NormGradients& gradients);
void geglu(const Tensor& x, const Tensor& y);
void geglu_dx(const Tensor& dy, const Tensor& x, const Tensor& dx);
}  // namespace flame::cuda
