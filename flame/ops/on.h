#pragma once

#include "flame/core/tensor.h"

namespace flame {

// on<cpu::f, cuda::f>(device, args...): the kernel of the device. A build without CUDA never refers to cuda::f, which
// then needs no definition.
template <auto Cpu, auto Cuda, class... Args>
decltype(auto) on(Device device, Args&&... args) {
  if constexpr (cuda_build) {
    if (device.is_cuda()) return Cuda(std::forward<Args>(args)...);
  }
  require(device.is_cpu(), "on", "no kernel for ", device.name());
  return Cpu(std::forward<Args>(args)...);
}

// Inputs of one op must agree; ops never promote or move.
inline void require_same(Op op, const Tensor& a, const Tensor& b) {
  require(a.defined() && b.defined(), op, "expected a tensor, got none");
  require(a.dtype() == b.dtype(), op, "expected one dtype, got ", a.dtype(), " and ", b.dtype());
  require(a.device() == b.device(), op, "expected one device, got ", a.device(), " and ", b.device());
}

}  // namespace flame
