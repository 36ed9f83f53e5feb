#include "flame/core/tensor.h"

#include <algorithm>
#include <ostream>

#include "flame/device/parallel.h"

namespace flame {

namespace cuda {
template <class T>
void fill(Device device, T* data, int64_t count, T value);
}

namespace {

template <class T>
T from_double(double value) {
  if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>)
    return T(static_cast<float>(value));
  else
    return static_cast<T>(value);
}

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  Tensor result;
  result.buffer_ = allocate(static_cast<size_t>(shape.numel()) * size_of(dtype), device);
  result.shape_ = shape;
  result.dtype_ = dtype;
  return result;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) { return full(shape, 0, dtype, device); }
Tensor Tensor::ones(const Shape& shape, DType dtype, Device device) { return full(shape, 1, dtype, device); }

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor result = empty(shape, dtype, device);
  result.fill(value);
  return result;
}

Tensor Tensor::arange(int64_t count, DType dtype, Device device) {
  require(count >= 0, "arange", "expected no negative count, got ", count);
  Tensor result = empty({count}, dtype);
  visit_all(dtype, [&]<class T>() {
    T* data = result.data<T>();
    for (int64_t i = 0; i < count; ++i) data[i] = from_double<T>(static_cast<double>(i));
  });
  return result.to(device);
}

Tensor Tensor::borrowed(const void* data, const Shape& shape, DType dtype, std::shared_ptr<const void> owner,
                        const ByteSource* source) {
  Tensor result;
  result.buffer_ = borrow(data, static_cast<size_t>(shape.numel()) * size_of(dtype), std::move(owner), source);
  result.shape_ = shape;
  result.dtype_ = dtype;
  return result;
}

Tensor Tensor::view(const Shape& shape) const {
  require(shape.numel() == numel(), "reshape", "shape ", shape_, " does not fit into ", shape);
  Tensor result = *this;
  result.shape_ = shape;
  result.slot_ = nullptr;
  return result;
}

Tensor Tensor::rows(int64_t begin, int64_t count) const {
  require(rank() > 0 && begin >= 0 && count >= 0 && begin + count <= dim(0), "rows", "[", begin, ", ", begin + count,
          ") of shape ", shape_);
  Tensor result = *this;
  result.shape_ = shape_.with(0, count);
  result.offset_ += static_cast<size_t>(begin * shape_.numel(1, rank())) * size_of(dtype_);
  result.slot_ = nullptr;
  return result;
}

Tensor Tensor::clone() const {
  Tensor result = empty(shape_, dtype_, device());
  result.copy_from(*this);
  return result;
}

void Tensor::copy_from(const Tensor& source) const {
  require(source.shape_ == shape_ && source.dtype_ == dtype_, "copy_from", "expected ", shape_, " ", dtype_, ", got ",
          source.shape_, " ", source.dtype_);
  require(!frozen(), "copy_from", "this tensor of shape ", shape_, " is frozen");
  copy_bytes(raw(), device(), source.raw(), source.device(), bytes(), source.buffer()->source());
}

void Tensor::fill(double value) const {
  require(!frozen(), "fill", "this tensor of shape ", shape_, " is frozen");
  visit_all(dtype_, [&]<class T>() {
    T* data = this->data<T>();
    const T filling = from_double<T>(value);
    if constexpr (cuda_build) {
      if (device().is_cuda()) return cuda::fill(device(), data, numel(), filling);
    }
    parallel_for(numel(), 1 << 16, [=](int64_t begin, int64_t end) { std::fill(data + begin, data + end, filling); });
  });
}

Tensor Tensor::to(Device target) const {
  require(defined(), "to", "expected a tensor, got none");
  if (target == device()) return *this;
  const Tensor result = empty(shape_, dtype_, target);
  result.copy_from(*this);
  return result;
}

float Tensor::item() const {
  require(defined() && numel() == 1, "item", "expected one element, got shape ", shape_);
  const Tensor host = to(Device::cpu());
  return visit_all(dtype_, [&]<class T>() { return static_cast<float>(*host.data<T>()); });
}

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) {
  if (!tensor.defined()) return out << "no tensor";
  out << tensor.shape() << " " << tensor.dtype() << " " << tensor.device() << " {";
  const Tensor host = tensor.to(Device::cpu());
  const int64_t shown = std::min<int64_t>(host.numel(), 8);
  visit_all(host.dtype(), [&]<class T>() {
    for (int64_t i = 0; i < shown; ++i) out << (i ? ", " : "") << static_cast<float>(host.data<T>()[i]);
  });
  return out << (host.numel() > shown ? ", ..." : "") << "}";
}

}  // namespace flame
