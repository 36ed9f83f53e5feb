#pragma once

#include "flame/ops/apply_cuda.h"
#include "flame/ops/pointwise_kernels.h"

namespace flame::cuda {

template <class T, class F>
void map(const F& f, const Tensor& x, const Tensor& y) {
  apply(x.device(), f, broadcast_walk(y.shape(), x.shape()), y.data<T>(), static_cast<const T*>(x.data<T>()));
}

template <class A, class B, class U, class F>
void zip(const F& f, const Tensor& a, const Tensor& b, const Tensor& out) {
  apply(out.device(), f, broadcast_walk(out.shape(), a.shape(), b.shape()), out.data<U>(),
        static_cast<const A*>(a.data<A>()), static_cast<const B*>(b.data<B>()));
}

template <class A, class T, class F>
void zip3(const F& f, const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& out) {
  apply(out.device(), f, broadcast_walk(out.shape(), a.shape(), b.shape(), c.shape()), out.data<T>(),
        static_cast<const A*>(a.data<A>()), static_cast<const T*>(b.data<T>()), static_cast<const T*>(c.data<T>()));
}

}  // namespace flame::cuda
