#pragma once

#include <memory>
#include <vector>

#include "flame/core/dtype.h"
#include "flame/core/error.h"
#include "flame/core/generator.h"
#include "flame/core/shape.h"
#include "flame/device/device.h"

namespace flame {

class GradientMap;

// A tensor's identity for gradients. It holds no data; a tensor has one only if a gradient is wanted for it.
struct Slot {
  Shape shape;
  DType dtype;  // of the gradient
  Device device;
  uint64_t epoch;  // the tape's epoch that made it, 0 for a leaf
  DType value;     // the tensor's own dtype: a gradient may come in it and is added to the wider one
};
using SlotPtr = std::shared_ptr<Slot>;

// A value handle: dense, row-major, on one device. Copies share the data. Ops never change their inputs.
class Tensor {
 public:
  Tensor() = default;  // no tensor: defined() is false

  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = Device::cpu());  // uninitialised
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = Device::cpu());
  static Tensor ones(const Shape& shape, DType dtype = DType::f32, Device device = Device::cpu());
  static Tensor full(const Shape& shape, double value, DType dtype = DType::f32, Device device = Device::cpu());
  static Tensor arange(int64_t count, DType dtype = DType::f32, Device device = Device::cpu());  // 0, 1, .. count-1
  static Tensor randn(const Shape& shape, Device device = Device::cpu());
  static Tensor randint(int64_t low, int64_t high, const Shape& shape, Device device = Device::cpu());  // i64
  // Rows of the first axis are the samples first_sample, first_sample + 1, ... of `generator`.
  static Tensor randn(const Shape& shape, Generator& generator, Device device = Device::cpu(),
                      int64_t first_sample = 0);
  static Tensor rand(const Shape& shape, Generator& generator, Device device = Device::cpu(),
                     int64_t first_sample = 0);  // [0, 1)
  static Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& generator,
                        Device device = Device::cpu(), int64_t first_sample = 0);
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape, Device device = Device::cpu());
  template <class T>
  static Tensor from(std::initializer_list<T> values, const Shape& shape, Device device = Device::cpu()) {
    return from(std::vector<T>(values), shape, device);
  }
  // A read-only tensor over bytes that `owner` keeps alive, such as a mapped file's; with their source, if they have
  // one.
  static Tensor borrowed(const void* data, const Shape& shape, DType dtype, std::shared_ptr<const void> owner,
                         const ByteSource* source = nullptr);

  bool defined() const { return buffer_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int axis) const { return shape_.dim(axis); }
  int64_t numel() const { return shape_.numel(); }
  DType dtype() const { return dtype_; }
  Device device() const { return buffer_->device(); }
  size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }
  const std::shared_ptr<Buffer>& buffer() const { return buffer_; }
  bool sole_owner() const { return buffer_.use_count() == 1; }

  // Promises that nobody will write to this tensor's buffer again, so that ops may keep data derived from it: oneDNN's
  // blocked copy of a convolution's weight. copy_from and fill refuse from then on.
  const Tensor& freeze() const { return buffer_->freeze(), *this; }
  bool frozen() const { return buffer_->frozen(); }

  std::byte* raw() const { return buffer_->data() + offset_; }
  template <class T>
  T* data() const {
    require(dtype_ == dtype_of<T>(), "data", "expected ", dtype_of<T>(), ", the tensor is ", dtype_);
    return reinterpret_cast<T*>(raw());
  }

  // The same bytes under another shape, or rows [begin, begin + count) of the first axis; unknown to autograd.
  Tensor view(const Shape& shape) const;
  Tensor rows(int64_t begin, int64_t count) const;

  Tensor clone() const;                        // a copy of the bytes, unknown to autograd
  void copy_from(const Tensor& source) const;  // writes the bytes in place: same shape and dtype, any device
  void fill(double value) const;               // writes in place
  Tensor to(Device device) const;              // itself where it already is
  float item() const;                          // the value of a one-element tensor of any dtype
  template <class T>
  std::vector<T> to_host() const;  // T must be the dtype's type

  // --- autograd (flame/autograd) ---
  Tensor requires_grad() const;                // this value as a new leaf
  Tensor requires_grad(DType gradient) const;  // whose gradient is wanted in its own dtype or in f32
  bool wants_grad() const { return slot_ != nullptr; }
  Tensor detach() const;         // this value, unknown to autograd
  GradientMap backward() const;  // through the current tape
  const SlotPtr& slot() const { return slot_; }
  Tensor with_slot(SlotPtr slot) const;

  // --- ops (flame/ops), differentiable ---
  Tensor to(DType dtype) const;
  Tensor reshape(const Shape& shape) const;
  Tensor permute(std::initializer_list<int> axes) const;
  Tensor narrow(int axis, int64_t begin, int64_t count) const;
  Tensor matmul(const Tensor& other) const;
  Tensor sum() const;  // a scalar, shape []
  Tensor mean() const;

 private:
  std::shared_ptr<Buffer> buffer_;
  size_t offset_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
  SlotPtr slot_;
};

template <class T>
Tensor Tensor::from(const std::vector<T>& values, const Shape& shape, Device device) {
  require(static_cast<int64_t>(values.size()) == shape.numel(), "Tensor::from", "shape ", shape, " needs ",
          shape.numel(), " values, got ", values.size());
  Tensor host = empty(shape, dtype_of<T>());
  std::copy(values.begin(), values.end(), host.data<T>());
  return host.to(device);
}

template <class T>
std::vector<T> Tensor::to_host() const {
  const Tensor host = to(Device::cpu());
  const T* begin = host.data<T>();
  return std::vector<T>(begin, begin + numel());
}

std::ostream& operator<<(std::ostream& out, const Tensor& tensor);  // shape, dtype, device and the first values

}  // namespace flame
