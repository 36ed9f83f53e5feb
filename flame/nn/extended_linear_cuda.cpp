#include "flame/nn/extended_linear_cuda.h"

#include "flame/ops/layout.h"

namespace flame::cuda {
namespace {

constexpr int64_t k_multiple = 64;  // products whose K is not slow down by a fifth

// Columns for this rank and the bias.
int64_t padded(int64_t rank) { return (rank + 1 + k_multiple - 1) / k_multiple * k_multiple; }

}  // namespace

ExtendedLinear::ExtendedLinear(const std::vector<Linear>& layers, DType dtype, const Tensor& gain, const Tensor& shift,
                               bool with_residual)
    : in_(layers.front().in()), device_(layers.front().weight().device()), dtype_(dtype) {
  PurposeScope purpose(Purpose::weights);
  if (gain.defined()) gain_ = cast(gain, DType::f32), shift_ = cast(shift, DType::f32);
  for (const Linear& layer : layers) {
    require(layer.in() == in_, "ExtendedLinear", "expected layers of ", in_, " inputs, got ", layer.in());
    if (const auto& adapter = layer.adapter()) {
      require(adapter->down.dtype() == DType::f32, "ExtendedLinear", "expected adapters in f32, got ",
              adapter->down.dtype());
      parts_.push_back({*adapter, out_, rank_, 0, adapter->down.dim(0)});
      parts_.back().out = layer.out();
      parts_.back().first_rank = rank_;
      rank_ += parts_.back().rank;
    }
    out_ += layer.out();
  }
  extra_ = rank_ || with_residual ? padded(rank_) : 0;
  matrix_ = Tensor::zeros({out_ + low_rows(), in_ + extra_}, dtype, device_);
  constants_ = Tensor::zeros({extra_ ? extra_ : out_}, dtype, device_);
  int64_t row = 0;
  for (const Linear& layer : layers) {
    const Tensor weight = layer.release_weight();
    place_weight(device_, weight, this->gain(), block(row, 0, layer.out(), in_));
    const Matrix biases = extra_ ? block(row, in_ + extra_ - 1, layer.out(), 1)
                                 : cuda::matrix(constants_.rows(row, layer.out()).view({layer.out(), 1}));
    place_bias(device_, weight, layer.bias(), this->shift(), biases.data, biases.pitch);
    row += layer.out();
  }
  if (extra_) constants_.rows(extra_ - 1, 1).fill(1);
}

bool ExtendedLinear::wants_gradients() const {
  for (const Part& part : parts_)
    if (wants(part.adapter.down) || wants(part.adapter.up)) return true;
  return false;
}

Matrix ExtendedLinear::block(int64_t row, int64_t column, int64_t rows, int64_t columns) const {
  const int64_t pitch = in_ + extra_;
  return {matrix_.raw() + static_cast<size_t>(row * pitch + column) * size_of(dtype_), dtype_, rows, columns, pitch};
}

void ExtendedLinear::forward(const Extended& x, const Matrix& y, const Matrix* residual) const {
  const cudaStream_t on = stream(device_);
  if (!extra_)
    return product(device_, on, x.main(), false, block(0, 0, out_, in_), true, y,
                   {.residual = residual, .bias = constants_.raw()});
  if (rank_)
    product(device_, on, x.main(), false, block(out_, 0, extra_, in_), true, x.part(in_, extra_),
            {.bias = constants_.raw()});
  else
    fill_rows(on, constants_, x.part(in_, extra_));
  product(device_, on, x.part(0, in_ + extra_), false, block(0, 0, out_, in_ + extra_), true, y,
          {.residual = residual});
}

void ExtendedLinear::backward(const Extended& dy, const Matrix* dx) const {
  const cudaStream_t on = stream(device_);
  if (rank_) product(device_, on, dy.main(), false, block(0, in_, out_, extra_), false, dy.part(out_, extra_), {});
  const int64_t rows = out_ + low_rows();
  if (dx) product(device_, on, dy.part(0, rows), false, block(0, 0, rows, in_), false, *dx, {});
}

void ExtendedLinear::add_gradients(const Extended& x, const Extended& dy, GradientMap& gradients,
                                   std::vector<Tensor>& scratch) const {
  if (parts_.empty()) return;
  // What they are added to is made on the first stream, before the second one begins.
  const auto sum_of = [&](const Tensor& factor) {
    return factor.slot() ? gradients.accumulator(factor.slot()) : Tensor();
  };
  std::vector<std::pair<Tensor, Tensor>> sums;
  for (const Part& part : parts_) sums.emplace_back(sum_of(part.adapter.down), sum_of(part.adapter.up));
  const cudaStream_t on = fork(device_);
  Tensor all_downs;  // dt' [x_hat | .. | 1]: what the gradients of all A are made from after a LayerNorm
  if (gain_.defined()) {
    all_downs = Tensor::empty({rank_, in_ + extra_}, DType::f32, device_);
    scratch.push_back(all_downs);
    product(device_, on, dy.part(out_, rank_), true, x.whole(), false, matrix(all_downs), {});
  }
  for (size_t i = 0; i < parts_.size(); ++i) {
    const Part& part = parts_[i];
    const auto& [down, up] = sums[i];
    if (up.defined())
      product(device_, on, dy.part(part.first_row, part.out), true, x.part(in_ + part.first_rank, part.rank), false,
              matrix(up), {.alpha = part.adapter.scale, .beta = 1});
    if (down.defined() && !all_downs.defined())
      product(device_, on, dy.part(out_ + part.first_rank, part.rank), true, x.main(), false, matrix(down),
              {.beta = 1});
  }
  if (!all_downs.defined()) return;
  std::vector<GradientPart> downs;
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (!sums[i].first.defined()) continue;
    const float* const from = all_downs.data<float>() + parts_[i].first_rank * (in_ + extra_);
    downs.push_back({.from = from,
                     .from_pitch = in_ + extra_,
                     .gain = gain(),
                     .shift = shift(),
                     .sums = from + in_ + extra_ - 1,
                     .sums_pitch = in_ + extra_,
                     .to = sums[i].first.data<float>(),
                     .rows = parts_[i].rank,
                     .columns = in_});
  }
  cuda::add_gradients(device_, on, downs);
}

std::vector<AdapterPlace> ExtendedLinear::places() const {
  std::vector<AdapterPlace> result;
  const int64_t pitch = in_ + extra_;
  for (const Part& part : parts_) {
    result.push_back({.down = part.adapter.down.data<float>(),
                      .up = part.adapter.up.data<float>(),
                      .gain = gain(),
                      .shift = shift(),
                      .a = block(out_ + part.first_rank, 0, 1, in_).data,
                      .b = block(part.first_row, in_ + part.first_rank, 1, part.rank).data,
                      .constants = constants_.raw() + static_cast<size_t>(part.first_rank) * size_of(dtype_),
                      .in = in_,
                      .out = part.out,
                      .rank = part.rank,
                      .pitch_a = pitch,
                      .pitch_b = pitch,
                      .scale = part.adapter.scale});
  }
  return result;
}

}  // namespace flame::cuda
