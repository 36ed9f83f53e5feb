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

std::vector<AdapterGradient> ExtendedLinear::adapter_gradients(const Matrix& x, const Matrix& low, const Extended& dy,
                                                               GradientMap& gradients) const {
  std::vector<AdapterGradient> result;
  for (const Part& part : parts_) {
    const auto& [down, up, scale] = part.adapter;
    if (up.slot())
      result.push_back({.left = dy.part(part.first_row, part.out),
                        .right = low.part(part.first_rank, part.rank),
                        .to = gradients.accumulator(up.slot()).data<float>(),
                        .scale = scale});
    if (down.slot())
      result.push_back({.left = x,
                        .right = dy.part(out_ + part.first_rank, part.rank),
                        .to = gradients.accumulator(down.slot()).data<float>(),
                        .ranks_first = true,
                        .gain = gain(),
                        .shift = shift()});
  }
  return result;
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
