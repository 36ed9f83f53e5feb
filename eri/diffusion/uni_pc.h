#pragma once

#include <vector>

#include "flame/core/tensor.h"

namespace eri {

// UniPC (Zhao et al., arXiv:2302.04867) of order 3, predicting x0, as ComfyUI runs it: each estimate corrects the way
// to where it was made before it helps to predict the next one. Ends at sigma 0.001 in place of 0.
class UniPC {
 public:
  enum class Variant { bh1, bh2 };
  UniPC(Variant variant, const std::vector<double>& sigmas);

  // x predicted at the next sigma, from the estimate made at x, which was predicted at this one.
  flame::Tensor step(const flame::Tensor& x, const flame::Tensor& denoised);

 private:
  struct Point {
    double sigma;
    flame::Tensor denoised;
  };
  int order(size_t index) const;  // of the way to sigmas_[index]
  // x at the next level from x at the newest point; the estimate made there makes it the corrected one.
  flame::Tensor advance(double next, int order, const flame::Tensor& estimate_there) const;

  Variant variant_;
  std::vector<double> sigmas_;
  std::vector<Point> points_;  // the newest three at most, oldest first
  flame::Tensor x_;            // corrected, at the newest point
  size_t index_ = 0;
};

}  // namespace eri
