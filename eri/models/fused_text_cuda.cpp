#include "eri/models/fused_text_cuda.h"

#include <algorithm>
#include <cstring>

#include "flame/ops/layout.h"

namespace eri {

using namespace flame;
using cuda::Matrix;

FusedText::FusedText(const std::vector<Linear>& layers)
    : device_(layers.front().weight().device()), dtype_(layers.front().weight().dtype()) {
  PurposeScope purpose(Purpose::weights);
  const int64_t in = layers.front().in();
  int64_t width = 0;
  for (const Linear& layer : layers) {
    const auto& adapter = layer.adapter();
    require(!layer.bias().defined(), "FusedText", "expected layers without biases");
    require(!adapter || adapter->down.dtype() == DType::f32, "FusedText", "expected adapters in f32");
    if (batches_.empty() || batches_.back().out != layer.out())
      batches_.push_back({0, layer.out(), static_cast<int64_t>(layers_.size()), width, {}});
    ++batches_.back().count;
    layers_.push_back({adapter, layer.out()});
    rank_ = std::max(rank_, layers_.back().rank());
    width += layer.out();
  }
  weight_ = Tensor::empty({width, in}, dtype_, device_);
  int64_t row = 0;
  for (const Linear& layer : layers) {
    const Tensor weight = layer.release_weight();
    weight_.rows(row, layer.out()).copy_from(weight);
    row += layer.out();
  }
  if (!rank_) return;
  down_ = Tensor::zeros({rank_ * static_cast<int64_t>(layers_.size()), in}, dtype_, device_);
  for (Batch& batch : batches_) batch.up = Tensor::zeros({batch.count, batch.out, rank_}, dtype_, device_);
}

Matrix FusedText::columns_of(const Batch& batch, const Tensor& all) const {
  return {all.raw() + static_cast<size_t>(batch.first_column) * size_of(all.dtype()),
          all.dtype(),
          all.numel() / width(),
          batch.out,
          width(),
          batch.count,
          batch.out};
}

Matrix FusedText::ranks_of(const Batch& batch, const Tensor& low) const {
  return {low.raw() + static_cast<size_t>(batch.first_layer * rank_) * size_of(low.dtype()),
          low.dtype(),
          low.dim(0),
          rank_,
          low.dim(1),
          batch.count,
          rank_};
}

Tensor FusedText::operator()(const Tensor& context) const {
  const cudaStream_t on = cuda::stream(device_);
  const int64_t rows = context.dim(0) * context.dim(1);
  const Matrix x = cuda::matrix(context, rows, context.dim(2));
  const Tensor y = Tensor::empty({context.dim(0), context.dim(1), width()}, dtype_, device_);
  cuda::product(device_, on, x, false, cuda::matrix(weight_), true, cuda::matrix(y, rows, width()));
  Tensor low;
  if (rank_) {
    low = Tensor::empty({rows, down_.dim(0)}, dtype_, device_);
    cuda::product(device_, on, x, false, cuda::matrix(down_), true, cuda::matrix(low));
    for (const Batch& batch : batches_)
      cuda::product(device_, on, ranks_of(batch, low), false, cuda::matrix(batch.up), true, columns_of(batch, y),
                    {.beta = 1});
  }
  const SlotPtr dcontext_to = wants(context);
  const bool trains = std::any_of(layers_.begin(), layers_.end(), [](const Layer& layer) { return layer.trains(); });
  if (!trains && !dcontext_to) return y;
  const Tensor kept = trains ? context.detach() : Tensor(), kept_low = trains ? low : Tensor();
  if (trains) Tape::current()->count(low.bytes() + context.bytes());
  return record_always("fused_text", y, std::span(&context, 1),
                       [this, kept, kept_low, dcontext_to](const Tensor& dy, GradientMap& gradients) {
                         const Tensor dlow = low_gradient(dy);
                         if (kept.defined()) add_gradients(kept, kept_low, dy, dlow, gradients);
                         if (dcontext_to) gradients.add(dcontext_to, context_gradient(dy, dlow));
                       });
}

// Of what the layers' first factors give, [rows, all ranks]; none without adapters.
Tensor FusedText::low_gradient(const Tensor& dy) const {
  if (!rank_) return {};
  const Tensor dlow = Tensor::empty({dy.dim(0) * dy.dim(1), down_.dim(0)}, dtype_, device_);
  for (const Batch& batch : batches_)
    cuda::product(device_, cuda::stream(device_), columns_of(batch, dy), false, cuda::matrix(batch.up), false,
                  ranks_of(batch, dlow));
  return dlow;
}

Tensor FusedText::context_gradient(const Tensor& dy, const Tensor& dlow) const {
  const cudaStream_t on = cuda::stream(device_);
  const int64_t rows = dy.dim(0) * dy.dim(1), in = weight_.dim(1);
  const Tensor dcontext = Tensor::empty({dy.dim(0), dy.dim(1), in}, dtype_, device_);
  const Matrix to = cuda::matrix(dcontext, rows, in);
  cuda::product(device_, on, cuda::matrix(dy, rows, width()), false, cuda::matrix(weight_), false, to);
  if (rank_) cuda::product(device_, on, cuda::matrix(dlow), false, cuda::matrix(down_), false, to, {.beta = 1});
  return dcontext;
}

void FusedText::add_gradients(const Tensor& context, const Tensor& low, const Tensor& dy, const Tensor& dlow,
                              GradientMap& gradients) const {
  const cudaStream_t on = cuda::stream(device_);
  const int64_t ranks = down_.dim(0), in = down_.dim(1);
  // [ranks, in], and behind it [width, rank_].
  const int64_t ups = ranks * in;
  const Tensor sums = Tensor::empty({ups + width() * rank_}, DType::f32, device_);
  for (const Batch& batch : batches_) {
    const Matrix slopes = columns_of(batch, dy);
    const Matrix up_sums = {sums.raw() + static_cast<size_t>(ups + batch.first_column * rank_) * sizeof(float),
                            DType::f32,
                            batch.out,
                            rank_,
                            rank_,
                            batch.count,
                            batch.out * rank_};
    cuda::product(device_, on, slopes, true, ranks_of(batch, low), false, up_sums);
  }
  cuda::product(device_, on, cuda::matrix(dlow), true, cuda::matrix(context, dlow.dim(0), in), false,
                {sums.raw(), DType::f32, ranks, in, in});

  std::vector<cuda::GradientPart> parts;
  int64_t column = 0, most_rows = 1;
  const auto add = [&](const cuda::GradientPart& part) {
    parts.push_back(part);
    most_rows = std::max(most_rows, part.rows);
  };
  for (size_t i = 0; i < layers_.size(); column += layers_[i++].out) {
    const Layer& layer = layers_[i];
    if (!layer.adapter) continue;
    if (const SlotPtr& to = layer.adapter->down.slot())
      add({.from = static_cast<int64_t>(i) * rank_ * in,
           .from_pitch = in,
           .to = gradients.accumulator(to).data<float>(),
           .rows = layer.rank(),
           .columns = in});
    if (const SlotPtr& to = layer.adapter->up.slot())
      add({.from = ups + column * rank_,
           .from_pitch = rank_,
           .scale = layer.adapter->scale,
           .to = gradients.accumulator(to).data<float>(),
           .rows = layer.out,
           .columns = layer.rank()});
  }
  cuda::add_gradients(on, sums.data<float>(), reinterpret_cast<const cuda::GradientPart*>(table_of(parts).raw()),
                      static_cast<int>(parts.size()), most_rows);
}

// Gradients are added up where they were the last time, so that a captured step finds the table of the plain ones.
const Tensor& FusedText::table_of(const std::vector<cuda::GradientPart>& parts) const {
  for (const Table& table : tables_)
    if (table.parts == parts) return table.on_device;
  const LastingScope lasting;
  const Tensor host = Tensor::empty({static_cast<int64_t>(parts.size() * sizeof(cuda::GradientPart))}, DType::u8);
  std::memcpy(host.raw(), parts.data(), host.bytes());
  return tables_.emplace_back(Table{parts, host.to(device_)}).on_device;
}

std::vector<cuda::AdapterPlace> FusedText::places() const {
  std::vector<cuda::AdapterPlace> result;
  if (!rank_) return result;
  const int64_t in = down_.dim(1);
  for (const Batch& batch : batches_) {
    for (int64_t i = 0; i < batch.count; ++i) {
      const int64_t index = batch.first_layer + i;
      const auto& adapter = layers_[static_cast<size_t>(index)].adapter;
      if (!adapter) continue;
      const int64_t rank = adapter->down.dim(0);
      result.push_back({.down = adapter->down.data<float>(),
                        .up = adapter->up.data<float>(),
                        .gain = nullptr,
                        .shift = nullptr,
                        .a = down_.rows(index * rank_, rank).raw(),
                        .b = batch.up.rows(i, 1).raw(),
                        .constants = nullptr,
                        .in = in,
                        .out = batch.out,
                        .rank = rank,
                        .pitch_a = in,
                        .pitch_b = rank_,
                        .scale = adapter->scale});
    }
  }
  return result;
}

}  // namespace eri
