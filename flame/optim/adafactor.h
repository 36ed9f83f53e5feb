#pragma once

#include "flame/optim/adafactor_kernels.h"
#include "flame/optim/optimizer.h"

namespace flame {

// Adam whose second moments of matrices are kept as one number a row and one a column (Shazeer and Stern,
// arXiv:1804.04235), as transformers' Adafactor computes it. Of a tensor with more axes than two the last two are the
// matrix.
class Adafactor : public Optimizer {
 public:
  using Options = AdafactorOptions;

  Adafactor(ParameterPack pack, const Options& options);

 private:
  void update(const Tensor& state) override;
  std::map<std::string, Tensor> state() const override;

  Options options_;
  std::vector<AdafactorShape> shapes_;  // one a parameter
  int64_t most_matrices_ = 1;
  Tensor shapes_there_, rows_, columns_, exp_avg_;
};

}  // namespace flame
