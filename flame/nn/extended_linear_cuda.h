#pragma once

#include <vector>

#include "flame/autograd/tape.h"
#include "flame/nn/layers.h"
#include "flame/ops/adapter_gradients_cuda.h"
#include "flame/ops/extended_kernels_cuda.h"

namespace flame::cuda {

// Activations with room behind each row: [rows, columns + extra], where an ExtendedLinear puts what belongs to its
// adapters.
struct Extended {
  Tensor buffer;  // [rows, columns + extra]
  int64_t columns = 0;

  Extended() = default;
  Extended(int64_t rows, int64_t width, int64_t extra, DType dtype, Device device)
      : buffer(Tensor::empty({rows, width + extra}, dtype, device)), columns(width) {}
  Extended(Tensor rows, int64_t width) : buffer(std::move(rows)), columns(width) {}
  int64_t rows() const { return buffer.dim(0); }
  Matrix main() const { return part(0, columns); }
  Matrix part(int64_t begin, int64_t count) const { return rows_of(buffer).part(begin, count); }
};

// Linear layers that share their input, with their adapters, as one matrix for both directions:
//
//     [ W | s B | b ]     y  = [ x | t | 1 ] [ W | s B | b ]'     t  = x A' + c
//     [ A |  0  | 0 ]     dx = [ dy | dt ] [ W ; A ]              dt = dy s B
//
// so that the low-rank terms ride along as a few more columns of the large products (K is padded to a multiple of 64).
// After a LayerNorm the layer can take its affine map in: W diag(gain), A diag(gain), b + W shift, c = A shift; it then
// sees the normalised x itself. Layers give up their own weights: this is the only copy.
//
// Without adapters there is no t, and the bias is the products' own, but not `with_residual`: cuBLASLt rounds again and
// again on its way where it adds both.
class ExtendedLinear {
 public:
  ExtendedLinear(const std::vector<Linear>& layers, DType dtype, const Tensor& gain = {}, const Tensor& shift = {},
                 bool with_residual = false);

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  int64_t extra() const { return extra_; }  // columns behind x, and behind dy
  bool trains() const { return !parts_.empty(); }
  bool wants_gradients() const;  // an adapter is a leaf of the current tape's

  // y = layer(x) (+ residual); fills x's extra columns. y's rows may be longer than out().
  void forward(const Extended& x, const Matrix& y, const Matrix* residual = nullptr) const;
  // dx = the gradient of x; fills dy's extra columns. Without dx only those.
  void backward(const Extended& dy, const Matrix* dx) const;
  // The adapters' gradients, for add_adapter_gradients(), from x and dy as forward() and backward() left them, x's
  // extra columns as `low`. What they are added to is made now, in the order of the first stream.
  std::vector<AdapterGradient> adapter_gradients(const Matrix& x, const Matrix& low, const Extended& dy,
                                                 GradientMap& gradients) const;

  std::vector<AdapterPlace> places() const;  // for refresh_adapters()

 private:
  struct Part {
    Adapter adapter;
    int64_t first_row, out, first_rank, rank;
  };
  int64_t low_rows() const { return rank_ ? extra_ : 0; }  // [A | 0]
  Matrix block(int64_t row, int64_t column, int64_t rows, int64_t columns) const;
  const float* gain() const { return gain_.defined() ? gain_.data<float>() : nullptr; }
  const float* shift() const { return shift_.defined() ? shift_.data<float>() : nullptr; }

  int64_t in_, out_ = 0, rank_ = 0, extra_ = 0;
  Device device_;
  DType dtype_;
  Tensor gain_, shift_;  // f32 [in], or none
  Tensor matrix_;        // [out + low_rows, in + extra]
  Tensor constants_;     // [extra]: what x's extra columns have besides x A'; or where there are none the bias [out]
  std::vector<Part> parts_;
};

}  // namespace flame::cuda
