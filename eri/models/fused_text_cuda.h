#pragma once

#include "flame/nn/extended_linear_cuda.h"

namespace eri {

// The projections of the text to the keys and values of every block, with their adapters: one product for all layers,
// and their low-rank parts in batches of layers of one width. Where ranks differ, or a layer has no adapter, zeros fill
// up to the largest rank.
class FusedText {
 public:
  explicit FusedText(const std::vector<flame::Linear>& layers);  // neighbours of one width make one batch

  flame::Tensor operator()(const flame::Tensor& context) const;  // [N, T, C] -> [N, T, width()]
  int64_t width() const { return weight_.dim(0); }
  std::vector<flame::cuda::AdapterPlace> places() const;

 private:
  struct Layer {
    std::optional<flame::Adapter> adapter;
    int64_t out;
    int64_t rank() const { return adapter ? adapter->down.dim(0) : 0; }
    bool trains() const { return adapter && (wants(adapter->down) || wants(adapter->up)); }
  };
  struct Batch {  // `count` layers with `out` outputs each
    int64_t count, out, first_layer, first_column;
    flame::Tensor up;  // [count, out, rank_]: s B
  };
  // The parts of [rows, width()] and of [rows, all ranks] that belong to a batch, as batched matrices.
  flame::cuda::Matrix columns_of(const Batch& batch, const flame::Tensor& all) const;
  flame::cuda::Matrix ranks_of(const Batch& batch, const flame::Tensor& low) const;
  flame::Tensor low_gradient(const flame::Tensor& dy) const;
  flame::Tensor context_gradient(const flame::Tensor& dy, const flame::Tensor& dlow) const;
  void add_gradients(const flame::Tensor& context, const flame::Tensor& low, const flame::Tensor& dy,
                     const flame::Tensor& dlow, flame::GradientMap& gradients) const;
  const flame::Tensor& table_of(const std::vector<flame::cuda::GradientPart>& parts) const;

  flame::Device device_;
  flame::DType dtype_;
  int64_t rank_ = 0;      // the largest
  flame::Tensor weight_;  // [width, C]
  flame::Tensor down_;    // [layers * rank_, C]
  std::vector<Layer> layers_;
  std::vector<Batch> batches_;
  // Where sums of adapters' gradients go, in the device's memory.
  struct Table {
    std::vector<flame::cuda::GradientPart> parts;
    flame::Tensor on_device;
  };
  mutable std::vector<Table> tables_;
};

}  // namespace eri
