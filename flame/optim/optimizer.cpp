#include "flame/optim/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "flame/device/parallel.h"

namespace flame {
namespace {

double sum_of_squares(const float* x, int64_t count) {
  constexpr int64_t lanes = 8;  // independent sums, so that the loop uses the vector unit
  std::array<double, lanes> sums = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const double value = x[i + lane];
      sums[lane] += value * value;
    }
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) sums[lane] += static_cast<double>(x[i]) * x[i];
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

double gradient_norm(const Tensor& gradients) {
  require(gradients.device().is_cpu(), "gradient_norm", "no kernel for ", gradients.device());
  constexpr int64_t block = 1 << 14;
  const int64_t count = gradients.numel();
  const float* x = gradients.data<float>();
  std::vector<double> partial(static_cast<size_t>((count + block - 1) / block));
  parallel_for(static_cast<int64_t>(partial.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      partial[static_cast<size_t>(i)] = sum_of_squares(x + i * block, std::min(block, count - i * block));
  });
  return std::sqrt(std::accumulate(partial.begin(), partial.end(), 0.0));
}

double clip_factor(double norm, double max_norm) { return std::min(1.0, max_norm / (norm + 1e-6)); }

Optimizer::Optimizer(ParameterPack pack) : pack_(std::move(pack)) {
  if (pack_.numel() == 0) fail("there is nothing to train: the optimiser was given no parameters");
}

Optimizer::Step Optimizer::step(double learning_rate, double max_grad_norm) {
  const double norm = gradient_norm(pack_.gradients());
  if (!std::isfinite(norm)) {
    ++skipped_;
    return {norm, true};
  }
  update(learning_rate, static_cast<float>(clip_factor(norm, max_grad_norm)), ++steps_);
  return {norm, false};
}

std::map<std::string, Tensor> Optimizer::views() const {
  std::map<std::string, Tensor> result;
  for (const auto& [quantity, flat] : state()) {
    for (const auto& parameter : pack_.parameters())
      result[quantity + "." + parameter.name] = ParameterPack::view(flat, parameter);
  }
  return result;
}

std::map<std::string, Tensor> Optimizer::save() const {
  std::map<std::string, Tensor> result = views();
  for (auto& [name, tensor] : result) tensor = tensor.clone();
  result["step"] = Tensor::from({steps_}, {});
  result["skipped"] = Tensor::from({skipped_}, {});
  return result;
}

void Optimizer::load(const std::map<std::string, Tensor>& saved) {
  std::map<std::string, Tensor> own = views();
  own["step"] = Tensor::zeros({}, DType::i64);
  own["skipped"] = Tensor::zeros({}, DType::i64);
  for (const auto& [name, tensor] : own) {
    const auto found = saved.find(name);
    if (found == saved.end()) fail("the optimiser's state has no tensor ", name);
    const Tensor& value = found->second;
    if (value.shape() != tensor.shape() || value.dtype() != tensor.dtype())
      fail("the optimiser's state ", name, ": expected ", tensor.shape(), " ", tensor.dtype(), ", got ", value.shape(),
           " ", value.dtype());
  }
  for (const auto& [name, tensor] : saved) {
    if (!own.contains(name)) fail("the optimiser's state has a tensor ", name, " that belongs to no parameter");
  }
  for (const auto& [name, tensor] : own) tensor.copy_from(saved.at(name).to(tensor.device()));
  steps_ = *own["step"].data<int64_t>();
  skipped_ = *own["skipped"].data<int64_t>();
}

}  // namespace flame
